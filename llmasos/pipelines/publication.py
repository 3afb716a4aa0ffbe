"""Putting finished work in place: files, dropped samples, counters, and the manifest last."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmasos.contracts.hub import HubAPI
from llmasos.kernel.atomic import write_atomic
from llmasos.kernel.workshop import Workshop, digest_of, digest_range, publish
from llmasos.pipelines.recipe import Recipe
from llmasos.pipelines.records import DROPPED, KEPT
from llmasos.pipelines.stages import RESULT_FILES, SOURCE, Finished, Stage

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "llmasos-data-1"


@dataclass(frozen=True, slots=True)
class Description:
    """What decides the output of each source and step: kind (full name), version, options."""

    sources: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]


class Publication:
    """The output folder of one run."""

    def __init__(
        self,
        folder: Path,
        workshop: Workshop,
        recipe: Recipe,
        description: Description,
        stages: Sequence[Stage],
    ) -> None:
        self._folder = folder
        self._workshop = workshop
        self._recipe = recipe
        self._description = description
        self._stages = stages

    def publish(
        self,
        results: Sequence[Sequence[Finished]],
        inputs: Sequence[Mapping[str, Any]],
        hub: HubAPI,
        sample: int | None,
    ) -> dict[str, Any]:
        """Publish the results of each stage (in shard order) and return the manifest, which is written last: a folder without
        one is not finished.
        """
        (self._folder / MANIFEST).unlink(missing_ok=True)
        files = [*self._shards(results[-1]), *self._dropped(results)]
        self._remove_others({str(entry["path"]) for entry in files})
        recipe = self._recipe
        manifest = {
            "format": MANIFEST_FORMAT,
            "pipeline": {
                "name": recipe.name,
                "digest": digest_of(
                    [self._description.sources, self._description.steps, recipe.output.compression, sample]
                ),
                "sources": self._description.sources,
                "steps": self._description.steps,
                "sample": sample,
            },
            "plugins": [{"id": plugin.id, "version": plugin.version} for plugin in self._plugins(hub)],
            "input": list(inputs),
            "steps": self._counts(results),
            "documents": sum(one.result["documents"] for one in results[-1]),
            "characters": sum(one.result["characters"] for one in results[-1]),
            "counts": total_of(one.result["counts"] for one in results[-1]),
            "output": files,
        }
        write_atomic(self._folder / MANIFEST, pretty(manifest))
        return manifest

    def _plugins(self, hub: HubAPI) -> list[Any]:
        """The plugins that provide a source or step of this pipeline, not whatever else this process has loaded."""
        wanted = {part["kind"] for part in (*self._description.sources, *self._description.steps)}
        provided = [
            p for kind in ("data_source", "processor") for p in hub.names(kind) if p.full_name in wanted
        ]
        return [plugin for _, plugin in sorted({p.plugin.id: p.plugin for p in provided}.items())]

    def _shards(self, last: Sequence[Finished]) -> list[dict[str, Any]]:
        files = []
        tail = self._stages[-1].tail
        for one in last:
            for name, entry in one.result["files"].items():
                if name.startswith(KEPT):
                    path = f"kept/{one.shard:05d}{name.removeprefix('kept')}"
                elif name not in RESULT_FILES and tail is not None:
                    path = f"{self._label(tail)}/{one.shard:05d}{name.removeprefix('shard')}"
                else:
                    continue
                publish(self._workshop.path(one.key) / name, self._folder / path)
                files.append({"path": path, **entry})
        return sorted(files, key=lambda entry: str(entry["path"]))

    def _dropped(self, results: Sequence[Sequence[Finished]]) -> list[dict[str, Any]]:
        """One file a step, in shard order, at most the cap of each reason over all shards."""
        files = []
        cap = self._recipe.output.dropped
        suffix = ".jsonl.gz" if self._recipe.output.compression == "gzip" else ".jsonl"
        for stage, finished in zip(self._stages, results, strict=True):
            for number in (stage.head, *stage.maps):
                path = f"dropped/{self._label(number)}{suffix}"
                target = self._folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
                seen: dict[str, int] = {}
                with temporary.open("wb") as raw, _maybe_gzip(raw, suffix) as file:
                    for one in finished:
                        if not one.result["steps"][str(number)]["dropped"]:
                            continue
                        with (self._workshop.path(one.key) / DROPPED).open("rb") as lines:
                            for line in lines:
                                record = json.loads(line)
                                if record["step"] != number:
                                    continue
                                seen[record["reason"]] = seen.get(record["reason"], 0) + 1
                                if cap is None or seen[record["reason"]] <= cap:
                                    file.write(line)
                os.replace(temporary, target)
                if not seen:
                    target.unlink()
                    continue
                files.append(
                    {"path": path, "sha256": digest_range(target, 0, None), "bytes": target.stat().st_size}
                )
        return files

    def _label(self, number: int) -> str:
        kind = "source" if number == SOURCE else self._recipe.steps[number - 1].kind.rsplit("/", 1)[-1]
        return f"{number:02d}-{kind}"

    def _counts(self, results: Sequence[Sequence[Finished]]) -> list[dict[str, Any]]:
        rows = []
        for stage, finished in zip(self._stages, results, strict=True):
            for number in (stage.head, *stage.maps):
                tables = [one.result["steps"][str(number)] for one in finished]
                row: dict[str, Any] = total_of(
                    {k: v for k, v in table.items() if k != "reasons"} for table in tables
                )
                reasons = total_of(table["reasons"] for table in tables)
                rows.append({"step": self._label(number), **row, "reasons": reasons})
        return rows

    def _remove_others(self, wanted: set[str]) -> None:
        """Files of an earlier run with other options. Only folders this class writes are looked into."""
        ours = [self._folder / "kept", self._folder / "dropped", *self._folder.glob("[0-9][0-9]-*")]
        for place in ours:
            if not place.is_dir():
                continue
            for path in place.iterdir():
                if path.is_file() and f"{place.name}/{path.name}" not in wanted:
                    path.unlink()
            if not any(place.iterdir()):
                place.rmdir()


def _maybe_gzip(raw: IO[bytes], suffix: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if suffix.endswith(".gz"):
        packed: Any = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
        return contextlib.closing(packed)
    return contextlib.nullcontext(raw)


def total_of(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for table in tables:
        for name, value in table.items():
            total[name] = total.get(name, 0) + value
    return dict(sorted(total.items()))


def pretty(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
