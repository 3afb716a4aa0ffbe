"""Data sets of the Hugging Face Hub, or of a server that speaks its protocol (``HF_ENDPOINT``; this project's registry).

Everything goes through ``huggingface_hub``: its cache, its tokens. A repository is read at one commit, which goes into the
record. What files a commit has is noted beside the cache, so that a run without network knows whether it has all of them.
Scripts of a repository are code, and are neither fetched nor run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmasos.api import HubAPI, InputError, NotFound, UsageError
from llmasos_evals.datasets.layout import CARD, STANDALONE_CARD, Layout, find_layout, read_card, read_yaml

#: ``hf://datasets/org/name[@revision][/path]``.
ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@]+))?(?:/(?P<path>.+))?"
)
NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARDS = re.compile(r"(.*-)(\d{5})-of-(\d{5})(.*)")
#: Branch on which the Hub keeps data sets with loading scripts as plain files.
CONVERTED = "refs/convert/parquet"
#: A revision that was asked for this short a time ago is not asked for again: a suite may have sixty tasks of one repository. Seconds.
_FRESH = 60.0


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit."""

    repo: str
    revision: str
    commit: str
    names: tuple[str, ...]
    #: False for what lies in a cache that another program filled: there may be more.
    whole: bool = True


class Repository:
    """A data set repository at one revision."""

    def __init__(self, repo: str, revision: str | None, hub: HubAPI, what: str) -> None:
        self.repo = repo
        self.revision = revision or "main"
        self.hub = hub
        self.what = what
        if not NAME.fullmatch(repo):
            raise InputError(f"{what}: {repo!r} is not the name of a data set", hint="org/name")

    @cached_property
    def offline(self) -> bool:
        """Whether nothing may be fetched."""
        from huggingface_hub import constants

        return bool(self.hub.offline or constants.HF_HUB_OFFLINE)

    @cached_property
    def listing(self) -> Listing:
        """Commit and files. Raises NotFound: no such repository or revision, offline and never fetched."""
        noted = self._noted()
        if noted is not None and self.offline:
            return noted
        if self.offline:
            return self._cached_listing()
        if noted is not None and time.time() - self._note.stat().st_mtime < _FRESH:
            return noted
        with self._errors():
            from huggingface_hub import HfApi

            info = HfApi().dataset_info(self.repo, revision=self.revision, timeout=30)
        names = tuple(sorted(sibling.rfilename for sibling in info.siblings or ()))
        if any(part in ("", ".", "..") or "\\" in part for name in names for part in name.split("/")):
            raise InputError(f"{self.what}: the data set {self.repo} names files outside itself")
        found = Listing(self.repo, self.revision, str(info.sha), names)
        self._write_note(found)
        return found

    def fetch(self, names: Sequence[str]) -> list[Path]:
        """Local paths of files, by their names in the repository. Raises NotFound for what cannot be had."""
        listing = self.listing
        paths = []
        missing = []
        for name in names:
            path = self._snapshot(listing.commit) / name
            paths.append(path)
            if not path.is_file():
                missing.append(name)
        if not missing:
            return paths
        if self.offline:
            raise self.absent(f"{missing[0]} was never fetched")
        progress = getattr(self.hub, "progress", None)
        if progress is not None:
            progress.phase(f"fetching {self.repo}", len(missing))
        for name in missing:
            with self._errors(), _quiet():
                from huggingface_hub import hf_hub_download

                hf_hub_download(self.repo, name, repo_type="dataset", revision=listing.commit)
            if progress is not None:
                progress.advance()
        return paths

    def card(self) -> Mapping[str, Any]:
        """What the repository says about itself."""
        found: dict[str, Any] = {}
        for name, read in ((CARD, read_card), (STANDALONE_CARD, read_yaml)):
            if name in self.listing.names:
                (path,) = self.fetch([name])
                found |= read(path.read_text(encoding="utf-8", errors="replace"))
        return found

    def absent(self, why: str) -> NotFound:
        """The error for data that is not here in a run that fetches nothing."""
        return NotFound(f"{self.what}: the data set {self.repo} is not here, and this run is offline ({why})")

    # ---- the cache ----

    def _snapshot(self, commit: str) -> Path:
        return self._store / "snapshots" / commit

    @property
    def _store(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / ("datasets--" + self.repo.replace("/", "--"))

    @cached_property
    def _note(self) -> Path:
        from huggingface_hub import constants

        key = "\n".join((constants.ENDPOINT, self.repo, self.revision))
        return self.hub.cache_dir / "data-listings" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"

    def _noted(self) -> Listing | None:
        try:
            value = json.loads(self._note.read_bytes())
            found = Listing(value["repo"], value["revision"], value["commit"], tuple(value["names"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        whole = all(isinstance(name, str) for name in found.names) and _COMMIT.fullmatch(str(found.commit))
        return found if whole and (found.repo, found.revision) == (self.repo, self.revision) else None

    def _write_note(self, listing: Listing) -> None:
        value = {
            "repo": listing.repo,
            "revision": listing.revision,
            "commit": listing.commit,
            "names": listing.names,
        }
        temporary = self._note.with_name(f".{self._note.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        with suppress(OSError):  # without it, a run offline has to trust what lies in the cache
            self._note.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as handle:
                    handle.write(json.dumps(value).encode())
                    handle.flush()
                    os.fsync(handle.fileno())
                temporary.replace(self._note)
            finally:
                temporary.unlink(missing_ok=True)

    def _cached_listing(self) -> Listing:
        """What lies in the cache although this program did not put it there: trusted, but for shards that are not all there."""
        commit = self.revision
        if not _COMMIT.fullmatch(commit):
            try:
                commit = (self._store / "refs" / self.revision).read_text(encoding="ascii").strip()
            except (OSError, ValueError):
                raise self.absent("it was never fetched") from None
        folder = self._snapshot(commit)
        if not _COMMIT.fullmatch(commit) or not folder.is_dir():
            raise self.absent("it was never fetched")
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for name in sorted(names):
            if shard := _SHARDS.fullmatch(name):
                head, _, count, tail = shard.groups()
                names |= {f"{head}{number:05}-of-{count}{tail}" for number in range(int(count))}
        return Listing(self.repo, self.revision, commit, tuple(sorted(names)), whole=False)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What huggingface_hub raises, as errors of ours."""
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        title = self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"
        try:
            yield
        except HFValidationError:
            raise UsageError(f"{self.what}: {self.repo!r} is not the name of a data set") from None
        except GatedRepoError:
            raise NotFound(
                f"{self.what}: the data set {title} asks its users to accept conditions first",
                hint="accept them on its page, then log in with: hf auth login",
            ) from None
        except RevisionNotFoundError:
            raise NotFound(f"{self.what}: the data set {self.repo} has no revision {self.revision}") from None
        except RepositoryNotFoundError:
            raise NotFound(
                f"{self.what}: there is no data set {self.repo}, or it is private",
                hint="check the spelling; for a private one log in with: hf auth login",
            ) from None
        except (
            Exception
        ) as error:  # the HTTP library behind the client, and so its errors, has changed more than once
            text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise NotFound(
                f"{self.what}: the data set {title} cannot be fetched: {text}",
                hint="check the network and HF_ENDPOINT; `llmasos data add` takes files you have",
            ) from None


class RepositoryPlace:
    """The splits of one configuration of a repository."""

    def __init__(
        self,
        repository: Repository,
        config: str | None,
        *,
        data_files: Any = None,
        data_dir: str | None = None,
    ) -> None:
        self.repository, self.layout = _laid_out(repository, config, data_files, data_dir)
        self.splits: Sequence[str] = list(self.layout.splits)
        self.format: str | None = self.layout.format
        self.options = self.layout.options
        self.features = self.layout.features
        listing = self.repository.listing
        self.origin: Mapping[str, str | None] = {
            "kind": "hub",
            "name": listing.repo,
            "config": self.layout.config,
            "revision": listing.commit,
        }

    def paths(self, split: str) -> Sequence[Path]:
        """The files of a split, fetched where they are not in the cache."""
        return self.repository.fetch(self.layout.splits[split])


def _laid_out(
    repository: Repository, config: str | None, data_files: Any, data_dir: str | None
) -> tuple[Repository, Layout]:
    names = repository.listing.names
    what = f"{repository.what}: the data set {repository.repo}"
    script = f"{repository.repo.rpartition('/')[2]}.py"
    card = repository.card()
    if script not in names or card.get("configs") or data_files is not None:
        return repository, find_layout(
            names,
            card,
            config,
            what=what,
            data_files=data_files,
            data_dir=data_dir,
            whole=repository.listing.whole,
        )
    converted = Repository(repository.repo, CONVERTED, repository.hub, repository.what)
    try:
        names = converted.listing.names
    except NotFound as error:
        if repository.offline:
            raise
        raise InputError(
            f"{what} consists of a loading script ({script}), which is code and is not run",
            hint="add its data under its name: llmasos data add "
            + repository.repo
            + (f" --config {config}" if config else "")
            + " --split SPLIT=FILE",
        ) from error
    configs: dict[str, dict[str, list[str]]] = {}
    for name in names:
        parts = name.split("/")
        if len(parts) == 3 and name.endswith(".parquet"):
            configs.setdefault(parts[0], {}).setdefault(parts[1], []).append(name)
    stated = {
        "configs": [
            {"config_name": found, "data_files": [{"split": s, "path": paths} for s, paths in splits.items()]}
            for found, splits in configs.items()
        ]
    }
    return converted, find_layout(names, stated, config, what=what)


@contextmanager
def _quiet() -> Iterator[None]:
    """huggingface_hub's own bars off, and back to what they were: progress is ours to show."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
