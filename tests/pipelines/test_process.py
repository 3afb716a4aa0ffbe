"""The engine of ``llmasos data process``, driven with steps written here and with the built-in ones."""

from __future__ import annotations

import errno
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmasos.contracts.data import Decision, Document, FilePart, InputShard
from llmasos.contracts.hub import PluginInfo, Provided
from llmasos.errors import InputError, PluginCallError, RunError, UnknownName, UsageError
from llmasos.kernel.executor import InlineExecutor
from llmasos.kernel.workshop import publish
from llmasos.pipelines.process import process


class Lines:
    """A source: a document a line of the files named; a line that begins with ``!`` is a bad record."""

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: Any) -> None:
        self.names = options["names"]

    def shards(self, root: Path) -> Iterator[InputShard]:
        return (InputShard((FilePart(name),)) for name in self.names)

    def read(self, shard: InputShard, root: Path) -> Iterator[Document | Decision]:
        name = shard.parts[0].name
        for number, line in enumerate((root / name).read_text().splitlines()):
            document = Document(f"{name}:{number}", line, {"n": number})
            yield (
                Decision(document, kept=False, reason="bad", detail="!") if line.startswith("!") else document
            )


class Upper:
    """Changes every text."""

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: Any) -> None:
        self.suffix = options.get("suffix", "")

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        for document in documents:
            yield Decision(Document(document.id, document.text.upper() + self.suffix, document.meta))


class Short:
    """Drops long texts."""

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: Any) -> None:
        self.limit = options["limit"]

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        for document in documents:
            size = len(document.text)
            yield Decision(
                document, size <= self.limit, "long" if size > self.limit else "", f"{size} > {self.limit}"
            )


class Once:
    """Keeps the first of equal texts over all shards."""

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: Any) -> None:
        pass

    def signatures(self, documents: Iterable[Document]) -> bytes:
        return json.dumps([document.text for document in documents]).encode()

    def resolve(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        seen: set[str] = set()
        for shard in shards:
            keep = []
            for text in json.loads(shard):
                keep.append(text not in seen)
                seen.add(text)
            yield json.dumps(keep).encode()

    def apply(self, documents: Iterable[Document], resolution: bytes) -> Iterator[Decision]:
        for document, keep in zip(documents, json.loads(resolution), strict=True):
            yield Decision(document, keep, "" if keep else "seen")


class Join:
    """An exporter: all texts in one file."""

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: Any) -> None:
        pass

    def export(self, documents: Iterable[Document], folder: Path) -> Mapping[str, int]:
        text = "|".join(document.text for document in documents)
        (folder / "shard.out").write_text(text)
        return {"joined": len(text)}


class Faulty:
    """Fails in the way its option says."""

    version = "1"

    def __init__(self, options: Mapping[str, Any], hub: Any) -> None:
        self.how = options["how"]
        if self.how == "constructor":
            raise KeyError("oops")

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        for number, document in enumerate(documents):
            if self.how == "raises" and number == 1:
                raise ValueError("cannot do this one")
            if self.how != "too few" or number:
                yield Decision(document)
            if self.how == "too many":
                yield Decision(document)


FACTORIES: dict[tuple[str, str], Any] = {
    ("data_source", "lines"): Lines,
    **{("processor", c.__name__.lower()): c for c in (Upper, Short, Once, Join, Faulty)},
}


@dataclass
class StepHub:
    """The part of a Hub that the engine uses."""

    cache_dir: Path = Path("unused")
    offline: bool = True

    def names(self, kind: str) -> list[Provided]:
        info = PluginInfo("test", "1.0", "test", Path("unused"))
        return [Provided(k, name, f"test/{name}", info, "") for k, name in FACTORIES if k == kind]

    def get(self, kind: str, name: str) -> Any:
        try:
            return FACTORIES[kind, name]
        except KeyError:
            raise UnknownName(f"no {kind} `{name}`", hint="see `llmasos plugin list`") from None


@dataclass
class Told:
    """A Progress that remembers."""

    phases: list[tuple[str, int | None]] = field(default_factory=list)
    done: int = 0

    def phase(self, name: str, total: int | None = None) -> None:
        self.phases.append((name, total))

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def warn(self, message: str) -> None:
        raise AssertionError(message)


FILES = {"a": "one\ntwo\n!bad\nthree", "b": "two\nfour\n", "c": "a rather long line\none\n!x"}
STEPS = [
    {"kind": "upper"},
    {"kind": "short", "limit": 10},
    {"kind": "once"},
    {"kind": "upper", "suffix": "!"},
]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes inputs and a pipeline file."""

    def make(
        steps: list[Any] | None = None,
        files: Mapping[str, str] = FILES,
        output: Mapping[str, Any] | None = None,
    ) -> Path:
        for name, text in files.items():
            if not (tmp_path / name).is_file() or (tmp_path / name).read_text() != text:
                (tmp_path / name).write_text(text)
                # As if written long ago, so that the memory of digests trusts the time of the file.
                os.utime(tmp_path / name, ns=(10**18, 10**18 + zlib.crc32(text.encode())))
        pipeline = {"version": 1, "source": {"kind": "lines", "names": sorted(files)}}
        pipeline |= {"steps": STEPS if steps is None else steps, "output": output or {}}
        (tmp_path / "p.yaml").write_text(json.dumps(pipeline))
        return tmp_path / "p.yaml"

    return make


def run(pipeline: Path, output: str = "out", **options: Any) -> Any:
    """Run into a folder beside the pipeline file."""
    return process(pipeline, StepHub(), Told(), output=pipeline.parent / output, **options)


def kept(folder: Path) -> dict[str, list[str]]:
    """Texts of each kept file."""
    return {
        path.name: [json.loads(line)["text"] for line in path.open()]
        for path in sorted((folder / "kept").iterdir())
    }


def files(folder: Path) -> dict[str, bytes]:
    """Every published file but run.json, which is about one run."""
    found = [p for p in folder.rglob("*") if p.is_file() and ".work" not in p.parts and p.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_documents_go_through_all_steps_and_drops_have_reasons(write: Callable[..., Path]) -> None:
    result = run(write())
    assert kept(result.output) == {
        "00000.jsonl": ["ONE!", "TWO!", "THREE!"],
        "00001.jsonl": ["FOUR!"],
        "00002.jsonl": [],
    }
    rows = {
        row["step"]: (row["in"], row["kept"], row["changed"], row["reasons"])
        for row in result.manifest["steps"]
    }
    assert rows == {
        "00-source": (9, 7, 0, {"bad": 2}),
        "01-upper": (7, 7, 7, {}),
        "02-short": (7, 6, 0, {"long": 1}),
        "03-once": (6, 4, 0, {"seen": 2}),
        "04-upper": (4, 4, 4, {}),
    }
    long = [json.loads(line) for line in (result.output / "dropped/02-short.jsonl").open()]
    assert long == [
        {
            "id": "c:0",
            "step": 2,
            "reason": "long",
            "detail": "18 > 10",
            "text": "A RATHER LONG LINE",
            "meta": {"n": 0},
        }
    ]
    assert result.manifest["documents"] == 4
    assert result.manifest["plugins"] == [{"id": "test", "version": "1.0"}]


def test_a_second_run_does_nothing_and_leaves_the_same_bytes(write: Callable[..., Path]) -> None:
    first = run(write())
    before = files(first.output)
    assert first.reused == 0
    again = run(write())
    assert (again.tasks, again.reused) == (first.tasks, first.tasks)
    assert files(again.output) == before


def test_a_changed_input_redoes_its_shard_only(write: Callable[..., Path]) -> None:
    run(write())
    changed = run(write(files={**FILES, "b": "two\nfive\n"}))
    assert kept(changed.output)["00001.jsonl"] == ["FIVE!"]
    # The shard twice, and the resolution, which comes out the same for the other two shards.
    assert changed.tasks - changed.reused == 3
    after = files(changed.output)
    assert files(run(write(files={**FILES, "b": "two\nfive\n"}), "fresh").output) == after
    back = run(write())
    assert back.reused == back.tasks
    assert kept(back.output)["00001.jsonl"] == ["FOUR!"]


def test_a_changed_option_redoes_what_follows_only(write: Callable[..., Path]) -> None:
    run(write())
    changed = run(write([*STEPS[:3], {"kind": "upper", "suffix": "?"}]))
    assert kept(changed.output)["00001.jsonl"] == ["FOUR?"]
    assert changed.tasks - changed.reused == 3


@pytest.mark.parametrize("how", ["edited", "touched"])
def test_an_edit_is_seen_even_when_the_size_is_the_same(write: Callable[..., Path], how: str) -> None:
    pipeline = write()
    run(pipeline)
    path = pipeline.parent / "b"
    if how == "edited":
        path.write_text("two\nfive\n")
    else:
        os.utime(path)
    again = run(pipeline)
    assert (again.reused == again.tasks) is (how == "touched")


def test_the_output_does_not_depend_on_the_order_of_work(write: Callable[..., Path]) -> None:
    class Backwards(InlineExecutor):
        def run(self, stage: Any, jobs: Any, folder: Any, report: Any) -> Iterator[Any]:
            return super().run(stage, list(jobs)[::-1], folder, report)

    assert files(run(write()).output) == files(run(write(), "other", executor=Backwards).output)


def test_files_of_an_earlier_pipeline_go_and_foreign_folders_are_left_alone(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    result = run(write())
    assert (result.output / "dropped/03-once.jsonl").is_file()
    (result.output / "notes.txt").write_text("mine")
    result = run(write(["upper"], files={"a": "x"}))
    assert sorted(files(result.output)) == ["kept/00000.jsonl", "manifest.json", "notes.txt"]
    foreign = tmp_path / "photos"
    (foreign / "kept").mkdir(parents=True)
    (foreign / "kept" / "cat.jpg").write_text("cat")
    with pytest.raises(UsageError, match="not from an earlier run"):
        run(write(), "photos")
    assert (foreign / "kept" / "cat.jpg").read_text() == "cat"


def test_dropped_samples_are_capped_and_counters_are_not(write: Callable[..., Path]) -> None:
    lines = "\n".join(f"{n} is too long a line" for n in range(20))
    result = run(write([{"kind": "short", "limit": 5}], {"a": lines, "b": lines}, {"dropped": 7}))
    samples = [json.loads(line)["id"] for line in (result.output / "dropped/01-short.jsonl").open()]
    assert samples == [f"a:{n}" for n in range(7)]
    assert result.manifest["steps"][1]["reasons"] == {"long": 40}


def test_gzip_output_has_no_time_in_it(write: Callable[..., Path]) -> None:
    result = run(write(output={"compression": "gzip"}))
    path = result.output / "kept/00000.jsonl.gz"
    assert path.read_bytes()[4:8] == b"\0\0\0\0"
    with gzip.open(path) as file:
        assert [json.loads(line)["text"] for line in file] == ["ONE!", "TWO!", "THREE!"]
    with gzip.open(result.output / "dropped/00-source.jsonl.gz") as file:
        assert json.loads(file.readline())["reason"] == "bad"
    assert files(run(write(output={"compression": "gzip"}), "other").output) == files(result.output)


def test_an_exporter_ends_the_pipeline(write: Callable[..., Path]) -> None:
    result = run(write([*STEPS, "join"]))
    assert (result.output / "05-join/00000.out").read_text() == "ONE!|TWO!|THREE!"
    assert result.manifest["counts"] == {"joined": 16 + 5}
    assert {entry["path"] for entry in result.manifest["output"]} >= {"05-join/00002.out", "kept/00000.jsonl"}
    only = run(write([*STEPS, "join"], output={"documents": False}), "only")
    assert not (only.output / "kept").exists()
    with pytest.raises(InputError, match="`join` ends a pipeline"):
        run(write(["join", "upper"]), "wrong")


@pytest.mark.parametrize("sample", [1, 2, 4, 100])
def test_a_sample_is_spread_over_the_shards(write: Callable[..., Path], sample: int) -> None:
    result = run(write([]), sample=sample)
    assert result.manifest["steps"][0]["in"] == min(sample, 9)
    whole = run(write([]))
    assert whole.manifest["documents"] == 7


def test_text_that_utf8_cannot_hold_survives(write: Callable[..., Path]) -> None:
    class Odd(Upper):
        def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
            return (Decision(Document(d.id, "\ud800", d.meta)) for d in documents)

    FACTORIES["processor", "odd"] = Odd
    try:
        result = run(write(["odd", "once", "upper"], {"a": "x"}))
    finally:
        del FACTORIES["processor", "odd"]
    assert kept(result.output) == {"00000.jsonl": ["\ud800"]}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "`faulty` failed: ValueError: cannot do this one"),
        ("too few", "gave 2 decisions for 3 documents"),
        ("too many", "decided on more documents than it was given"),
        ("constructor", "`faulty` could not be made: KeyError"),
    ],
)
def test_a_faulty_step_is_named_and_nothing_is_published(
    write: Callable[..., Path], how: str, message: str
) -> None:
    pipeline = write([{"kind": "faulty", "how": how}])
    with pytest.raises(PluginCallError) as caught:
        run(pipeline)
    assert message in caught.value.message
    assert not (pipeline.parent / "out" / "manifest.json").exists()


def test_an_unknown_step_is_named_with_its_place(write: Callable[..., Path]) -> None:
    pipeline = write(["uper"])
    with pytest.raises(UnknownName) as caught:
        run(pipeline)
    assert caught.value.message.startswith(f"{pipeline}:1: ")


def test_an_input_that_changes_while_it_is_read_stops_the_run(write: Callable[..., Path]) -> None:
    pipeline = write()

    class Meddler(InlineExecutor):
        def run(self, stage: Any, jobs: Any, folder: Any, report: Any) -> Iterator[Any]:
            for job in jobs:
                if getattr(job.shard, "input", None) is not None:
                    (pipeline.parent / "a").write_text("something else")
                yield from super().run(stage, [job], folder, report)

    with pytest.raises(RunError, match="a changed while it was being read"):
        run(pipeline, executor=Meddler)


def test_a_run_that_dies_while_publishing_is_unfinished_and_can_go_on(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = files(run(write(), "whole").output)
    pipeline = write()
    published: list[Path] = []

    def die(source: Path, target: Path) -> None:
        if len(published) == 2:
            raise KeyboardInterrupt
        publish(source, target)
        published.append(target)

    with monkeypatch.context() as patch:
        patch.setattr("llmasos.pipelines.publication.publish", die)
        with pytest.raises(KeyboardInterrupt):
            run(pipeline)
    assert not (pipeline.parent / "out" / "manifest.json").exists()
    again = run(pipeline)
    assert again.reused == again.tasks
    assert files(again.output) == expected


def test_progress_has_a_phase_for_each_stage(write: Callable[..., Path]) -> None:
    told = Told()
    pipeline = write()
    process(pipeline, StepHub(), told, output=pipeline.parent / "out")
    assert told.phases == [
        ("reading the pipeline", None),
        ("reading inputs", 3),
        ("stage 1/2: lines, upper, short, once signatures", 3),
        ("stage 2/2: once, upper", 3),
        ("publishing", 1),
    ]
    assert told.done == 10


@pytest.mark.parametrize("option", ["workers", "sample"])
def test_numbers_below_one_are_refused(write: Callable[..., Path], option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} is 0"):
        run(write(), **{option: 0})


def test_a_fault_in_a_worker_process_arrives_with_its_hint(write: Callable[..., Path]) -> None:
    pipeline = write([{"kind": "faulty", "how": "raises"}])
    with pytest.raises(PluginCallError, match="cannot do this one") as caught:
        run(pipeline, workers=2)
    assert (
        caught.value.hint
        == "this is a fault of the plugin; LLMASOS_STRICT=1 shows the traceback for a report"
    )


@pytest.mark.parametrize("place", ["llmasos.pipelines.publication.publish", "llmasos.kernel.workshop._sync"])
def test_a_full_disk_is_an_error_and_the_next_run_goes_on(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    pipeline = write()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(RunError, match="No space left on device"):
            run(pipeline)
    assert not (pipeline.parent / "out" / "manifest.json").exists()
    assert files(run(pipeline).output) == files(run(pipeline, "whole").output)


def test_a_source_that_cannot_plan_is_named(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Lines, root: Path) -> Iterator[InputShard]:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(Lines, "shards", fail)
    with pytest.raises(PluginCallError, match="`lines` failed: ZeroDivisionError: no"):
        run(write())
