"""Duplicate removal on text whose duplicates are known, and a run that is killed five times.

    python benchmarks/data_dedup.py --data ../shared/data [--work DIR] [--workers 2] [--json] [--speed]

From the WARC file and the novels under ``--data`` it takes the documents that pass the quality rules, writes exact copies (some
with other spacing and case), near copies (words replaced, dropped and inserted at a rate of 1 to 5 per cent) and decoys (at a rate
of 25 per cent: related, but no duplicates) of some of them, and runs one pipeline over all of it with the ``llmasos`` command. Printed: counts of each step, recall and precision
against the known truth, and whether a run killed with SIGKILL at five random points ends in the digests of an unbroken run.
``--speed`` adds documents per second of each step on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmasos import Hub
from llmasos.api import Document

SEED = 20_211_208  # the date of the Gopher paper
RATES = (0.01, 0.02, 0.03, 0.05)
DECOY, DECOY_RATE = "decoy", 0.25
EXACT, NEAR_PER_RATE, DECOYS, KILLS = 400, 200, 200, 5

SOURCES: list[dict[str, Any]] = [
    {"kind": "warc", "paths": ["data/warc/*.warc.gz"]},
    {"kind": "text", "paths": ["data/text/*.txt"], "unit": "paragraph", "shard_bytes": 400_000},
]
COPIES: dict[str, Any] = {"kind": "jsonl", "paths": ["copies/*.jsonl"], "id": "id", "shard_bytes": 100_000}
CLEAN: list[dict[str, Any]] = [{"kind": "unicode"}, {"kind": "gopher"}]
DEDUP: list[dict[str, Any]] = [{"kind": "exact_dedup"}, {"kind": "near_dedup", "threshold": 0.6}]


# ---- the corpus and its truth -----------------------------------------------------------------------------------------


def originals(hub: Hub, work: Path) -> list[Document]:
    """Documents that the cleaning steps keep."""
    documents: Iterator[Any] = (
        document
        for options in SOURCES
        for source in [hub.get("data_source", options["kind"])(_options(options), hub)]
        for shard in source.shards(work)
        for document in source.read(shard, work)
        if isinstance(document, Document)
    )
    for options in CLEAN:
        step = hub.get("processor", options["kind"])(_options(options), hub)
        documents = (decision.document for decision in step.process(documents) if decision.kept)
    return list(documents)


def plant(hub: Hub, work: Path, pool: Sequence[Document]) -> dict[str, list[tuple[str, str]]]:
    """Write the copies; the truth is: label -> (original id, copy id). Copies that a quality rule would drop are not used."""
    rng = random.Random(SEED)
    vocabulary = sorted({word for document in pool for word in document.text.split()})
    gopher = hub.get("processor", "gopher")({}, hub)
    # The long web pages always, novels' paragraphs by lot.
    web = [document for document in pool if "url" in document.meta]
    novels = [document for document in pool if "url" not in document.meta]
    prose = rng.sample(novels, EXACT + NEAR_PER_RATE * len(RATES) + DECOYS)
    truth: dict[str, list[tuple[str, str]]] = defaultdict(list)
    rows: list[dict[str, str]] = []

    def add(label: str, original: Document, text: str) -> None:
        if gopher.broken_rule(text) is None:
            copy = f"copy-{len(rows):05d}"
            truth[label].append((original.id, copy))
            rows.append({"id": copy, "text": text})

    for number, original in enumerate([*web[::2], *prose[:EXACT]]):
        text = original.text
        add("exact", original, text if number % 2 else "  " + text.upper().replace(" ", "  "))
    near = [*web[1::2], *prose[EXACT:-DECOYS]]
    for number, original in enumerate(near):
        rate = RATES[number % len(RATES)]
        add(f"near {rate:.0%}", original, edited(original.text, rate, rng, vocabulary))
    for original in prose[-DECOYS:]:
        add(DECOY, original, edited(original.text, DECOY_RATE, rng, vocabulary))
    rng.shuffle(rows)
    folder = work / "copies"
    folder.mkdir()
    for part in range(3):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows[part::3]]
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    return dict(truth)


def edited(text: str, rate: float, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """The text with a share ``rate`` of its words, one at least, replaced, dropped or preceded by another word."""
    words = text.split()
    chosen = set(rng.sample(range(len(words)), max(1, round(rate * len(words)))))
    result: list[str] = []
    for number, word in enumerate(words):
        act = rng.choice(("replace", "drop", "insert")) if number in chosen else "keep"
        if act in ("replace", "insert"):
            result.append(rng.choice(vocabulary))
        if act in ("keep", "insert"):
            result.append(word)
    return " ".join(result)


# ---- runs -------------------------------------------------------------------------------------------------------------


def start(work: Path, output: Path, workers: int) -> subprocess.Popen[bytes]:
    """``llmasos data process`` on the pipeline file."""
    command = [sys.executable, "-m", "llmasos", "data", "process", str(work / "pipeline.yaml")]
    command += ["--output", str(output), "--workers", str(workers), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait, and stop with its message when it failed."""
    _, errors = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}: {errors.decode()}")


def committed(output: Path) -> int:
    """Results in the store."""
    return sum(1 for _ in (output / ".work").glob("[0-9a-f][0-9a-f]/*"))


def killed_run(work: Path, output: Path, workers: int, results: int) -> list[int]:
    """Kill the run at five random points, each after a random number of results, then let it end. Returns those numbers."""
    rng = random.Random(SEED)
    points = sorted(rng.sample(range(1, results), KILLS))
    reached: list[int] = []
    for point in points:
        process = start(work, output, workers)
        while process.poll() is None and committed(output) < point:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)  # somewhere inside the next result
        if process.poll() is not None:
            raise SystemExit("the run ended before it could be killed")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reached.append(committed(output))
    finish(start(work, output, workers))
    return reached


def digests(output: Path) -> str:
    """One digest over every published file and its name."""
    whole = hashlib.sha256()
    paths = [output / "manifest.json", *output.glob("kept/*"), *output.glob("dropped/*")]
    for path in sorted(paths):
        whole.update(
            f"{path.relative_to(output)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return whole.hexdigest()


# ---- figures ----------------------------------------------------------------------------------------------------------


def score(output: Path, truth: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """Recall by kind of copy; precision of what the two steps removed; documents lost with all their copies."""
    kept = {json.loads(line)["id"] for path in output.glob("kept/*") for line in path.open(encoding="utf-8")}
    removed = [
        json.loads(line)
        for name in ("03-exact_dedup", "04-near_dedup")
        for line in (output / "dropped" / f"{name}.jsonl").open(encoding="utf-8")
    ]
    kinds = {}
    for label, pairs in sorted(truth.items()):
        kinds[label] = {
            "planted": len(pairs),
            "removed": sum(not (one in kept and two in kept) for one, two in pairs),
            "lost": sum(one not in kept and two not in kept for one, two in pairs),
        }
    duplicates = [row for label, row in kinds.items() if label != DECOY]
    partner = {
        a: b
        for label, pairs in truth.items()
        if label != DECOY
        for pair in pairs
        for a, b in (pair, pair[::-1])
    }
    wrong = [
        f"{record['id']}: {record['detail']}"
        for record in removed
        if record["detail"].rsplit(" ", 1)[-1] != partner.get(record["id"])
    ]
    return {
        "kinds": kinds,
        "planted": sum(row["planted"] for row in duplicates),
        "recall": sum(row["removed"] for row in duplicates) / sum(row["planted"] for row in duplicates),
        "removed": len(removed),
        "precision": 1 - len(wrong) / len(removed),
        "not_planted": wrong,
    }


def speed(hub: Hub, pool: Sequence[Document]) -> dict[str, float]:
    """Documents per CPU second of each step, on 250-word documents of which 30 per cent are near copies."""
    rng = random.Random(SEED)
    words = " ".join(document.text for document in pool if "url" not in document.meta).split()
    vocabulary = sorted(set(words))
    fresh = [" ".join(words[at : at + 250]) for at in range(0, 14_000 * 40, 40)]
    texts = fresh + [edited(rng.choice(fresh), 0.02, rng, vocabulary) for _ in range(len(fresh) * 3 // 7)]
    corpus = [Document(f"{number:06d}", text) for number, text in enumerate(texts)]

    def rate(task: Callable[[], object]) -> float:
        begun = time.process_time()
        task()
        return len(corpus) / (time.process_time() - begun)

    def dedup(kind: str) -> Callable[[], object]:
        step = hub.get("processor", kind)({}, hub)

        def work_through() -> None:
            shards = [corpus[at : at + 2000] for at in range(0, len(corpus), 2000)]
            resolutions = step.resolve([step.signatures(shard) for shard in shards])
            for shard, resolution in zip(shards, resolutions, strict=True):
                for _ in step.apply(shard, resolution):
                    pass

        return work_through

    def through(kind: str) -> Callable[[], object]:
        step = hub.get("processor", kind)({}, hub)
        return lambda: sum(decision.kept for decision in step.process(corpus))

    figures = {kind: rate(through(kind)) for kind in ("unicode", "gopher")}
    figures |= {kind: rate(dedup(kind)) for kind in ("exact_dedup", "near_dedup")}
    return figures


def _options(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "kind"}


def measure(data: Path, work: Path, workers: int, with_speed: bool) -> dict[str, Any]:
    """Everything, as a table."""
    (work / "data").symlink_to(data.resolve(), target_is_directory=True)
    hub = Hub()
    pool = originals(hub, work)
    truth = plant(hub, work, pool)
    pipeline = {
        "version": 1,
        "source": [*SOURCES, COPIES],
        "steps": [*CLEAN, *DEDUP],
        "output": {"dropped": None},
    }
    # JSON is YAML.
    (work / "pipeline.yaml").write_text(json.dumps(pipeline, indent=1), encoding="utf-8")
    whole, broken = work / "whole", work / "broken"
    finish(start(work, whole, workers))
    manifest = json.loads((whole / "manifest.json").read_text(encoding="utf-8"))
    about = json.loads((whole / "run.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {"originals": len(pool), "steps": manifest["steps"], **score(whole, truth)}
    result["seconds"] = about["seconds"]
    result["digest"] = digests(whole)
    result["killed_after"] = killed_run(work, broken, workers, about["tasks"] - 1)
    result["results"] = about["tasks"]
    result["digest_after_kills"] = digests(broken)
    result["same"] = result["digest"] == result["digest_after_kills"]
    if with_speed:
        result["documents_per_cpu_second"] = {k: round(v) for k, v in speed(hub, pool).items()}
    return result


def report(result: dict[str, Any]) -> None:
    """For people."""
    for step in result["steps"]:
        reasons = ", ".join(f"{name} {count}" for name, count in step["reasons"].items())
        print(
            f"{step['step']:16} in {step['in']:6}  kept {step['kept']:6}  dropped {step['dropped']:5}  {reasons}"
        )
    for label, row in result["kinds"].items():
        share = row["removed"] / row["planted"]
        print(
            f"{label:9} planted {row['planted']:4}  removed {row['removed']:4} ({share:.1%})  lost {row['lost']}"
        )
    print(
        f"recall {result['recall']:.4f} of {result['planted']}, precision {result['precision']:.4f} of {result['removed']}"
    )
    for line in result["not_planted"]:
        print(f"  not planted: {line}")
    print(
        f"unbroken run: {result['seconds']:.1f} s, {result['results']} results, digest {result['digest'][:16]}"
    )
    print(
        f"killed after {result['killed_after']} results, digest {result['digest_after_kills'][:16]}: ", end=""
    )
    print("the same bytes" if result["same"] else "DIFFERENT")
    for name, value in result.get("documents_per_cpu_second", {}).items():
        print(f"{name:16} {value:8} documents per CPU second")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with warc/ and text/")
    parser.add_argument("--work", type=Path, help="empty folder to work in; kept afterwards")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="llmasos-dedup-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        result = measure(arguments.data, work, arguments.workers, arguments.speed)
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if arguments.json:
        json.dump(result, sys.stdout, indent=1)
    else:
        report(result)
    return 0 if result["same"] else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
