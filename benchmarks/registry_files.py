"""Large files and many small ones: plain downloads against nginx, the ``hf`` command against curl and nginx."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from registry_report import Line, Sizes, faster, say
from registry_servers import Absent, Nginx, Ours, call

#: Downloads at the same time in the second line.
TOGETHER = 8
MODEL = "admin/bench"


def download_lines(work: Path, sizes: Sizes) -> Iterator[Line]:
    """One file from the store of a registry, and the very same file on disk from nginx."""
    ours = Ours(work / "ours")
    with ours.running():
        source = random_file(work / "source" / "weights.bin", sizes.megabytes << 20)
        upload(ours, work, source.parent)
        stored = [path for path in (work / "ours").rglob("*") if path.is_file() and same_size(path, source)]
        if not stored:
            raise Absent("the blob was not found in the data folder")
        nginx = Nginx(work / "nginx", stored[0].parent)
        with nginx.running():
            urls = {
                "ours": f"{ours.url}/{MODEL}/resolve/main/{source.name}",
                "nginx": f"{nginx.url}/{stored[0].name}",
            }
            for together in (1, TOGETHER):
                seconds: dict[str, list[float]] = {name: [] for name in urls}
                for turn in range(sizes.rounds + 1):
                    for name, url in urls.items():
                        say(f"download: {together} at a time, round {turn}, {name}")
                        taken = curl_downloads([url] * together)
                        if turn:  # the first round fills the page cache
                            seconds[name].append(taken)
                rate = {
                    name: together * source.stat().st_size / statistics.median(taken) / 1e6
                    for name, taken in seconds.items()
                }
                ratio = rate["ours"] / rate["nginx"]
                yield Line(
                    f"download of {sizes.megabytes} MB, {together} at a time, against nginx",
                    rate["ours"],
                    rate["nginx"],
                    "MB/s",
                    ratio,
                    "at least 0.8x",
                    ratio >= 0.8,
                )


def hub_lines(work: Path, sizes: Sizes) -> Iterator[Line]:
    """``hf`` uploads and downloads; curl moves the same bytes to and from nginx, which neither hashes nor keeps versions.

    The ``hf`` command starts, hashes and (with Xet) cuts into chunks in that time; what the server itself did is in the note.
    """
    ours, nginx = Ours(work / "ours"), Nginx(work / "nginx", work / "www")
    (work / "www").mkdir()
    large = random_file(work / "large" / "weights.bin", sizes.megabytes << 20).parent
    small = work / "small"
    for i in range(sizes.files):
        random_file(small / f"file-{i:04d}.bin", 10_000)
    with ours.running(), nginx.running():
        for folder, what in (
            (large, f"1 x {sizes.megabytes} MB"),
            (small, f"{sizes.files:,} x 10 KB"),
        ):
            names = sorted(path.name for path in folder.iterdir())
            repo = f"{MODEL}-{folder.name}"
            taken, worked = {}, {}
            for way, settings in (("Xet", {}), ("LFS", {"HF_HUB_DISABLE_XET": "1"})):
                for path in folder.iterdir():  # new bytes: what the registry has already is not sent to it
                    random_file(path, path.stat().st_size)
                say(f"hf: upload of {what}, {way}")
                before = ours.cpu_seconds()
                taken[way] = upload(ours, work, folder, f"{repo}-{way.lower()}", settings)
                worked[way] = ours.cpu_seconds() - before
            floor = curl_uploads(nginx, folder)
            for way, seconds in taken.items():
                note = f"the server worked {worked[way]:.1f} s"
                yield faster(
                    f"hf upload of {what}, {way}, against curl and nginx", seconds, floor, "s", note=note
                )
            say(f"hf: download of {what}")
            before = ours.cpu_seconds()
            begin = time.perf_counter()
            target = work / f"got-{folder.name}"
            hf(ours, work, ["download", f"{repo}-lfs", "--local-dir", str(target)])
            seconds = time.perf_counter() - begin
            note = f"the server worked {ours.cpu_seconds() - before:.1f} s"
            for name in names:
                if (target / name).read_bytes() != (folder / name).read_bytes():
                    raise RuntimeError(f"{name} came back different")
            urls = [f"{nginx.url}/{folder.name}/{name}" for name in names]
            floor = curl_downloads(urls, work / f"plain-{folder.name}")
            yield faster(f"hf download of {what}, against curl and nginx", seconds, floor, "s", note=note)


def random_file(path: Path, size: int) -> Path:
    """A file of random bytes: nothing along the way can compress it or find it twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while size > 0:
            size -= file.write(os.urandom(min(size, 1 << 20)))
    return path


def same_size(one: Path, other: Path) -> bool:
    """Whether two files have as many bytes."""
    return one.stat().st_size == other.stat().st_size


def hf(ours: Ours, work: Path, arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> None:
    """Run the stock ``hf`` command against our server, with a cache of its own."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    home = work / "hf-home"
    env |= {"HF_ENDPOINT": ours.url, "HF_TOKEN": ours.token, "HF_HOME": str(home)}
    env |= {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }
    env |= settings or {}
    program = shutil.which("hf", path=str(Path(sys.executable).parent)) or shutil.which("hf")
    if program is None:
        raise Absent("the `hf` command is not installed")
    done = subprocess.run([program, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"hf {' '.join(arguments)} failed: {done.stdout[-500:]}{done.stderr[-1500:]}")


def upload(
    ours: Ours, work: Path, folder: Path, repo: str = MODEL, settings: Mapping[str, str] | None = None
) -> float:
    """Create a model repository and upload a folder into it; seconds of the upload."""
    organization, name = repo.split("/")
    call("POST", f"{ours.url}/api/repos/create", {"type": "model", "name": name}, ours.bearer)
    begin = time.perf_counter()
    hf(ours, work, ["upload", f"{organization}/{name}", str(folder), "."], settings)
    return time.perf_counter() - begin


def curl(configuration: Sequence[str]) -> float:
    """Run curl with up to eight transfers at a time; seconds. Raises Absent, RuntimeError when one failed."""
    program = shutil.which("curl")
    if program is None:
        raise Absent("curl is not installed")
    command = [program, "-sSfL", "--parallel", "--parallel-max", str(TOGETHER), "-K", "-"]
    begin = time.perf_counter()
    done = subprocess.run(
        command, input="\n".join(configuration), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"curl failed: {done.stderr[-500:]}")
    return time.perf_counter() - begin


def curl_downloads(urls: Sequence[str], folder: Path | None = None) -> float:
    """Download to nowhere, or into a folder."""
    if folder is not None:
        folder.mkdir()
    targets = ["/dev/null" if folder is None else str(folder / url.rpartition("/")[2]) for url in urls]
    return curl([f'url = "{url}"\noutput = "{target}"' for url, target in zip(urls, targets, strict=True)])


def curl_uploads(nginx: Nginx, folder: Path) -> float:
    """PUT a folder's files to nginx."""
    return curl(
        [
            f'upload-file = "{path}"\nurl = "{nginx.url}/{folder.name}/{path.name}"'
            for path in sorted(folder.iterdir())
        ]
    )
