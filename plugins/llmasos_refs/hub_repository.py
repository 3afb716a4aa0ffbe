"""``hf://org/name[@revision][/file.gguf]``: a repository of the Hugging Face Hub, or of a server that speaks its protocol.

Everything goes through ``huggingface_hub``: its cache, HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME, its tokens. Only the files
a model needs are fetched, by exact name; Python files never are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from llmasos.api import LlmasosError, ModelNotFound, ResolvedModel, UsageError
from llmasos_refs.near import listed, near_misses

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

FORM = "write hf://org/name, hf://org/name@revision or hf://org/name/file.gguf"
REFERENCE = re.compile(
    r"hf://(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@]+))?"
    r"(?:/(?P<file>[^@]+))?"
)
#: What a model directory is made of besides its weights.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "byte_tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "llmasos.toml",
)
SAFETENSORS = ("*.safetensors", "*.safetensors.index.json")
PICKLES = ("pytorch_model*.bin", "pytorch_model*.bin.index.json")
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RepositoryReference:
    """A reference, taken apart. ``file`` is empty for a whole model."""

    ref: str
    repo: str
    revision: str
    file: str

    @classmethod
    def parse(cls, ref: str) -> RepositoryReference:
        """Raises UsageError for a reference that is not of this form. ``%2F`` stands for ``/`` in a revision."""
        match = REFERENCE.fullmatch(ref)
        if match is None:
            raise UsageError(f"{ref!r} is not a reference to a Hugging Face repository", hint=FORM)
        file = match["file"] or ""
        if file and any(part in ("", ".", "..") for part in file.split("/")):
            raise UsageError(f"the path {file!r} does not stay inside the repository", hint=FORM)
        revision = unquote(match["revision"] or "main")
        if any(part in ("", ".", "..") for part in revision.split("/")):
            raise UsageError(f"{revision!r} is not a revision", hint=FORM)
        return cls(ref, match["repo"], revision, file)

    @property
    def title(self) -> str:
        """For messages."""
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"


def resolve_repository(ref: str, *, offline: bool) -> ResolvedModel:
    """The files a reference names, from the cache or the Hub; ``revision`` of the answer is the commit.

    Raises ModelNotFound (no such repository, revision or file, nothing readable in it, offline and not cached) and
    UsageError (malformed reference).
    """
    from huggingface_hub import constants

    wanted = RepositoryReference.parse(ref)
    if offline or constants.HF_HUB_OFFLINE:
        return _from_cache(wanted)
    return _from_hub(wanted)


def choose_files(names: Sequence[str], wanted: RepositoryReference) -> list[str]:
    """The files of a repository that a model needs. Raises ModelNotFound naming the choices when that is not clear."""
    if wanted.file:
        if wanted.file.lower().endswith(".py"):
            raise ModelNotFound(f"{wanted.file} is code, which is never fetched", hint=FORM)
        if wanted.file not in names:
            near = near_misses(wanted.file, names)
            raise ModelNotFound(
                f"{wanted.title} has no file {wanted.file}",
                hint=f"did you mean {listed(near)}" if near else f"its files: {listed(names)}",
            )
        return [wanted.file]
    top = [name for name in names if "/" not in name]
    companions = [name for name in top if name in COMPANIONS]
    tensors = _matching(top, SAFETENSORS)
    if any(name.startswith("model") for name in tensors):
        # Some repositories carry the same weights twice, the second time in their author's own layout.
        tensors = [name for name in tensors if not name.startswith("consolidated")]
    if any(name.endswith(".safetensors") for name in tensors):
        return companions + tensors
    packed = [name for name in names if name.lower().endswith(".gguf")]
    if len(packed) == 1:
        return companions + packed
    if packed:
        raise ModelNotFound(
            f"{wanted.title} holds {len(packed)} GGUF files",
            hint="choose one: " + listed(f"hf://{wanted.repo}/{name}" for name in packed),
        )
    pickles = _matching(top, PICKLES)
    if pickles:
        return companions + pickles
    raise ModelNotFound(
        f"{wanted.title} has no weights that can be read",
        hint=f"it needs *.safetensors, a .gguf file or pytorch_model.bin; its files: {listed(names)}",
    )


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _from_hub(wanted: RepositoryReference) -> ResolvedModel:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        # By name and not by commit, so that the client notes where the name led and finds it again offline. If the name
        # moves between the two questions, they are asked again.
        for _ in range(3):
            info = HfApi().model_info(wanted.repo, revision=wanted.revision)
            chosen = choose_files(sorted(sibling.rfilename for sibling in info.siblings or ()), wanted)
            patterns = [_exactly(name) for name in chosen]
            folder = Path(snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=patterns))
            if folder.name == info.sha:
                return _resolved(wanted, folder, chosen, _license(info))
    except LlmasosError:
        raise
    except HFValidationError:
        raise UsageError(f"{wanted.repo!r} is not a repository name", hint=FORM) from None
    except GatedRepoError:
        raise ModelNotFound(
            f"{wanted.title} asks its users to accept conditions first",
            hint="accept them on the model's page, then log in with: hf auth login",
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFound(
            f"{wanted.repo} has no revision {wanted.revision}", hint=_revisions(wanted.repo)
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFound(
            f"there is no repository {wanted.repo}, or it is private",
            hint="check the spelling; for a private repository log in with: hf auth login",
        ) from None
    except (
        Exception
    ) as error:  # the HTTP library behind the client, and so its errors, has changed more than once
        raise ModelNotFound(
            f"{wanted.title} cannot be fetched: {_first_line(error)}",
            hint="check the network and HF_ENDPOINT; --offline uses what is in the cache",
        ) from None
    raise ModelNotFound(
        f"{wanted.title} changed while it was fetched",
        hint="try again, or name a commit: hf://org/name@COMMIT",
    )


def _from_cache(wanted: RepositoryReference) -> ResolvedModel:
    """Read the cache directly (its layout is documented), because the client insists on every file of a repository
    where only some were fetched."""
    from huggingface_hub import constants

    store = Path(constants.HF_HUB_CACHE) / ("models--" + wanted.repo.replace("/", "--"))
    missing = ModelNotFound(
        f"{wanted.title} is not in the cache, and this run is offline",
        hint="run once without --offline (and HF_HUB_OFFLINE, LLMASOS_OFFLINE) to fetch it; "
        f"looked in {constants.HF_HUB_CACHE}",
    )
    try:
        commit = wanted.revision
        if not COMMIT.fullmatch(commit):
            commit = (store / "refs" / wanted.revision).read_text(encoding="ascii").strip()
        folder = store / "snapshots" / commit
        if not COMMIT.fullmatch(commit) or not folder.is_dir():
            raise missing
    except (OSError, ValueError):
        raise missing from None
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    )
    try:
        chosen = choose_files(names, wanted)
    except ModelNotFound as error:
        raise ModelNotFound(f"{missing.message}: {error.message}", hint=missing.hint) from None
    for name in sorted({*chosen, *_shards(folder, chosen)}):
        if not (
            folder / name
        ).is_file():  # never fetched, or a link to a blob that was removed or never completed
            raise ModelNotFound(f"{missing.message}: {name} is incomplete", hint=missing.hint)
    return _resolved(wanted, folder, chosen, None)


def _shards(folder: Path, chosen: Sequence[str]) -> set[str]:
    """Weight files that an index names. An unreadable index names none here; the weight loader will say what is wrong."""
    found: set[str] = set()
    for name in chosen:
        if name.endswith(".index.json"):
            try:
                weight_map = json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"]
                found.update(str(shard) for shard in weight_map.values())
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
    return found


def _resolved(
    wanted: RepositoryReference, folder: Path, chosen: Sequence[str], license_name: str | None
) -> ResolvedModel:
    commit = folder.name
    path = folder
    if wanted.file:
        path = folder.joinpath(*PurePosixPath(wanted.file).parts)
    elif not any(name == "config.json" for name in chosen):
        packed = [name for name in chosen if name.lower().endswith(".gguf")]
        if len(packed) == 1:
            path = folder.joinpath(*PurePosixPath(packed[0]).parts)
    digests = {}
    for name in chosen:
        # Large files lie in the cache under the sha256 that the server vouches for, small ones under their git id.
        blob = os.path.basename(os.path.realpath(folder.joinpath(*PurePosixPath(name).parts)))
        if SHA256.fullmatch(blob):
            digests[name if path == folder else PurePosixPath(name).name] = blob
    return ResolvedModel(
        ref=wanted.ref,
        path=path,
        source="hf",
        revision=commit,
        license=license_name,
        files=digests,
        provenance={"repository": wanted.repo, "requested_revision": wanted.revision, "commit": commit},
    )


def _exactly(name: str) -> str:
    """A pattern that matches one file name and nothing else."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _license(info: ModelInfo) -> str | None:
    """The licence of a repository, from its tags."""
    for tag in info.tags or ():
        if tag.startswith("license:"):
            return tag.removeprefix("license:")
    return None


def _revisions(repo: str) -> str:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception:  # only a hint: whatever keeps the list away must not hide the error it belongs to
        names = []
    return f"its revisions: {listed(names)}" if names else "a revision is a branch, a tag or a commit"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
