"""A cold installation of many plugins: ``llmasos install`` against ``uv pip install`` from a static index."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from registry_load import Uploader
from registry_report import Line, Sizes, faster, say
from registry_servers import Absent, Nginx, Ours
from registry_wheels import filename, wheel

#: Versions of each plugin; the newest is installed.
VERSIONS = 5


def install_lines(work: Path, sizes: Sizes) -> Iterator[Line]:
    """Each run has an environment and a cache of its own; making them is not timed."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise Absent("uv is not installed")
    names = [f"bench-plugin-{i:02d}" for i in range(sizes.plugins)]
    static = work / "static"
    ours, nginx = Ours(work / "ours"), Nginx(work / "nginx", static)
    static.mkdir()
    with ours.running(), nginx.running():
        uploader = Uploader(*ours.upload)
        for name in names:
            links = []
            (static / "simple" / name).mkdir(parents=True)
            for version in (f"1.{i}.0" for i in range(VERSIONS)):
                content = wheel(name, version)
                uploader.publish(name, version, content)
                file = filename(name, version)
                (static / "simple" / name / file).write_bytes(content)
                links.append(f'<a href="{file}#sha256={hashlib.sha256(content).hexdigest()}">{file}</a>')
            (static / "simple" / name / "index.html").write_text(
                f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>"
            )
        uploader.close()
        taken: dict[str, list[float]] = {"ours": [], "uv": []}
        for turn in range(sizes.rounds):
            for who, seconds in taken.items():
                say(f"install: round {turn + 1}, {who}")
                place = work / f"{who}-{turn}"
                python = environment(uv, place / "venv")
                env = {
                    **os.environ,
                    "UV_CACHE_DIR": str(place / "uv-cache"),
                    "XDG_CACHE_HOME": str(place / "cache"),
                }
                env |= {
                    "LLMASOS_CACHE": str(place / "llmasos"),
                    "LLMASOS_CONFIG": str(place / "config"),
                }
                env |= {"LLMASOS_REGISTRY": ours.url, "VIRTUAL_ENV": str(place / "venv")}
                env.pop("LLMASOS_OFFLINE", None)
                if who == "ours":
                    command = [str(python), "-m", "llmasos", "install", "-y", *names]
                else:
                    command = [
                        uv,
                        "pip",
                        "install",
                        "-q",
                        "-p",
                        str(python),
                        "--index-url",
                        f"{nginx.url}/simple/",
                        *names,
                    ]
                begin = time.perf_counter()
                done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
                seconds.append(time.perf_counter() - begin)
                installed = sorted(
                    path.name
                    for path in (place / "venv").glob("lib/*/site-packages/bench_plugin_*.dist-info")
                )
                expected = [f"{name.replace('-', '_')}-1.{VERSIONS - 1}.0.dist-info" for name in names]
                if done.returncode or installed != expected:
                    raise RuntimeError(
                        f"{' '.join(command[:6])} installed {installed}: {done.stdout[-800:]}{done.stderr[-1500:]}"
                    )
                shutil.rmtree(place)
        yield faster(
            f"cold install of {sizes.plugins} plugins, against uv and a static index",
            statistics.median(taken["ours"]),
            statistics.median(taken["uv"]),
            "s",
        )


def environment(uv: str, folder: Path) -> Path:
    """A new virtual environment that also sees the packages of this one, and its Python."""
    subprocess.run([uv, "venv", "-q", "-p", sys.executable, str(folder)], check=True)
    (site,) = folder.glob("lib/*/site-packages")
    root = Path(__file__).resolve().parents[1]
    paths = [sysconfig.get_path("purelib"), str(root), str(root / "plugins"), str(root / "registry")]
    (site / "outer.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return folder / "bin" / "python"
