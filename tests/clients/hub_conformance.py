"""The conformance list for Hub servers, run by one version of huggingface_hub against one server.

This file is a program for a foreign environment: it knows the standard library and huggingface_hub only. It prints one
JSON line for each row: {"row", "outcome": "pass" | "fail" | "absent", "detail", "seconds"}. ``absent``: this version of
the client has no such command. The caller sets HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import io
import json
import os
import subprocess
import sys
import time
import traceback
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub as hub
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.utils import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

ENDPOINT = os.environ["HF_ENDPOINT"]
CARD = "---\nlicense: mit\ntags: [conformance]\npipeline_tag: text-generation\n---\n# Tiny\n\nA tiny model.\n"
#: Above what the server takes inside a commit, in more than two parts of a multipart upload.
LARGE = 2_500_000


class Absent(Exception):
    """This version of the client cannot be asked this."""


class Rows:
    """The rows, in their order; each is a method whose name begins with ``row_``."""

    def __init__(self, user: str, other_token: str, work: Path) -> None:
        self.user, self.other, self.work = user, other_token, work
        self.api = HfApi()
        self.repo = f"{user}/tiny"
        self.folder = work / "folder"
        self.hf = str(Path(sys.executable).parent / "hf")
        #: Commands of the second generation: `hf repos`, `hf cache verify`, `hf models`.
        self.modern = int(hub.__version__.split(".")[0]) >= 1

    def command(self, *words: str, ok: bool = True, token: str | None = None) -> str:
        environ = dict(os.environ) | ({"HF_TOKEN": token} if token else {})
        done = subprocess.run(
            [self.hf, *words], capture_output=True, text=True, timeout=120, check=False, env=environ
        )
        text = done.stdout + done.stderr
        if ok and done.returncode != 0:
            raise AssertionError(f"`hf {' '.join(words)}` ended with {done.returncode}: {text[-1500:]}")
        return text

    def mark(self, name: str) -> None:
        """A line in the server's log, so that requests can be counted between two of them."""
        urllib.request.urlopen(f"{ENDPOINT}/healthz?{name}").read()
        request = urllib.request.Request(f"{ENDPOINT}/api/telemetry/mark/{name}", method="HEAD")
        urllib.request.urlopen(request).read()

    def row_whoami(self) -> None:
        """hf auth whoami"""
        assert self.user in self.command("auth", "whoami")

    def row_create(self) -> None:
        """hf repos create"""
        self.command("repos" if self.modern else "repo", "create", self.repo)
        assert self.api.repo_exists(self.repo)
        self.api.create_repo(self.repo, exist_ok=True)

    def row_upload(self) -> None:
        """hf upload of a folder: small text files and two large ones"""
        (self.folder / "sub dir").mkdir(parents=True)
        (self.folder / "README.md").write_text(CARD, encoding="utf-8")
        (self.folder / "config.json").write_text('{"model_type": "tiny"}')
        (self.folder / "empty.txt").write_bytes(b"")
        (self.folder / "sub dir" / "übung.txt").write_text("text", encoding="utf-8")
        (self.folder / "model.safetensors").write_bytes(pattern(LARGE, 1))
        (self.folder / "sub dir" / "more.bin").write_bytes(pattern(LARGE, 2))
        self.command("upload", self.repo, str(self.folder), ".", "--commit-message", "first files")
        tree = {e.path: e for e in self.api.list_repo_tree(self.repo, recursive=True)}
        assert {p for p, e in tree.items() if hasattr(e, "size")} >= set(self.files()), sorted(tree)
        assert tree["model.safetensors"].lfs["sha256"] == sha256(self.folder / "model.safetensors")
        assert tree["config.json"].lfs is None
        info = self.api.model_info(self.repo, files_metadata=True)
        assert info.card_data is not None
        assert info.card_data["license"] == "mit"
        assert info.pipeline_tag == "text-generation"

    def files(self) -> list[str]:
        return [str(p.relative_to(self.folder)) for p in sorted(self.folder.rglob("*")) if p.is_file()]

    def row_upload_again(self) -> None:
        """the same upload again makes no commit"""
        before = self.api.list_repo_commits(self.repo)
        self.command("upload", self.repo, str(self.folder), ".", "--commit-message", "again")
        assert [c.commit_id for c in self.api.list_repo_commits(self.repo)] == [c.commit_id for c in before]

    def check(self, folder: Path) -> None:
        for name in self.files():
            assert sha256(folder / name) == sha256(self.folder / name), name

    def row_download(self) -> None:
        """hf download"""
        self.command("download", self.repo)
        self.check(Path(snapshot_download(self.repo)))

    def row_download_again(self) -> None:
        """the second download makes one request"""
        self.mark("again-begin")
        snapshot_download(self.repo)
        self.mark("again-end")

    def row_local_dir(self) -> None:
        """hf download --local-dir, twice"""
        target = self.work / "local"
        self.command("download", self.repo, "--local-dir", str(target))
        self.check(target)
        snapshot_download(self.repo, local_dir=target)
        self.check(target)

    def row_cache_verify(self) -> None:
        """hf cache verify: every file has the digest that the server names"""
        if not self.modern:
            raise Absent("no `hf cache verify`")
        text = self.command("cache", "verify", self.repo)
        assert str(len(self.files())) in text or "erified" in text, text
        # The command must be able to fail: a changed file is found.
        place = Path(snapshot_download(self.repo)) / "config.json"
        real, kept = place.resolve(), place.read_bytes()
        real.write_bytes(kept + b" ")
        try:
            changed = self.command("cache", "verify", self.repo, ok=False)
        finally:
            real.write_bytes(kept)
        assert "config.json" in changed, changed

    def row_refs(self) -> None:
        """branches and tags with a slash; upload to a branch; snapshot of a tag"""
        head = self.api.model_info(self.repo).sha
        self.api.create_branch(self.repo, branch="dev/x")
        self.api.create_branch(self.repo, branch="dev/x", exist_ok=True)
        self.api.create_tag(self.repo, tag="v/1", tag_message="one")
        self.api.create_tag(self.repo, tag="v/1", exist_ok=True)
        self.api.upload_file(
            path_or_fileobj=b"branch", path_in_repo="on-branch.txt", repo_id=self.repo, revision="dev/x"
        )
        refs = self.api.list_repo_refs(self.repo)
        tips = {r.name: r.target_commit for r in [*refs.branches, *refs.tags]}
        assert tips["main"] == head == tips["v/1"]
        assert tips["dev/x"] != head
        assert Path(hf_hub_download(self.repo, "on-branch.txt", revision="dev/x")).read_text() == "branch"
        self.check(Path(snapshot_download(self.repo, revision="v/1")))
        assert not (Path(snapshot_download(self.repo, revision="v/1")) / "on-branch.txt").exists()
        self.api.delete_branch(self.repo, branch="dev/x")
        self.api.delete_tag(self.repo, tag="v/1")
        assert [b.name for b in self.api.list_repo_refs(self.repo).branches] == ["main"]
        assert self.api.list_repo_refs(self.repo).tags == []

    def row_file_system(self) -> None:
        """HfFileSystem: list, look, read ranges, find, write"""
        fs = HfFileSystem(skip_instance_cache=True, use_listings_cache=False)
        whole = (self.folder / "model.safetensors").read_bytes()
        with fs.open(f"{self.repo}/model.safetensors", "rb", block_size=4096) as file:
            file.seek(1_000_003)
            assert file.read(70) == whole[1_000_003:1_000_073]
            file.seek(-5, 2)
            assert file.read() == whole[-5:]
        assert fs.info(f"{self.repo}/model.safetensors")["size"] == LARGE
        assert fs.isdir(f"{self.repo}/sub dir")
        assert any(p.endswith("übung.txt") for p in fs.find(self.repo))
        assert fs.glob(f"{self.repo}/*.json") == [f"{self.repo}/config.json"]
        with fs.open(f"{self.repo}/written.txt", "w") as file:
            file.write("by fs")
        assert fs.cat_file(f"{self.repo}/written.txt") == b"by fs"
        fs.rm(f"{self.repo}/written.txt")

    def row_exists(self) -> None:
        """file_exists, repo_exists, revision_exists: true and false"""
        assert self.api.file_exists(self.repo, "config.json")
        assert not self.api.file_exists(self.repo, "none.json")
        assert not self.api.file_exists(f"{self.user}/none", "config.json")
        assert not self.api.file_exists(self.repo, "config.json", revision="none")
        assert not self.api.repo_exists(f"{self.user}/none")
        assert not self.api.repo_exists("gpt2")
        assert self.api.revision_exists(self.repo, "main")
        assert not self.api.revision_exists(self.repo, "none/x")
        for function, error in (
            (lambda: hf_hub_download(self.repo, "none.json"), EntryNotFoundError),
            (lambda: hf_hub_download(self.repo, "config.json", revision="none"), RevisionNotFoundError),
            (lambda: hf_hub_download(f"{self.user}/none", "config.json"), RepositoryNotFoundError),
            (lambda: self.api.model_info(self.repo, revision="refs/pr/1"), RevisionNotFoundError),
        ):
            raises(error, function)

    def row_wrong_token(self) -> None:
        """a wrong token is called a wrong token"""
        # The oldest version turns the first of these into its HTTP library's own error.
        unknown = raises(Exception, lambda: HfApi(token="llma_wrong").whoami())
        assert unknown.response.status_code == 401, unknown
        error = raises(HfHubHTTPError, lambda: HfApi(token="llma_wrong").model_info(self.repo))
        assert not isinstance(error, RepositoryNotFoundError), error
        assert error.response.status_code == 401
        assert "Invalid credentials" in str(error), error
        text = self.command("auth", "whoami", ok=False, token="llma_wrong")
        assert "nvalid" in text, text

    def row_private(self) -> None:
        """private: invisible to strangers and others, visible to its owner"""
        name = f"{self.user}/secret"
        self.api.create_repo(name, private=True)
        self.api.upload_file(path_or_fileobj=b"secret", path_in_repo="a.txt", repo_id=name)
        for token in (False, self.other):
            raises(RepositoryNotFoundError, lambda t=token: self.api.model_info(name, token=t))
            raises(RepositoryNotFoundError, lambda t=token: hf_hub_download(name, "a.txt", token=t))
            assert name not in [m.id for m in self.api.list_models(author=self.user, token=token)]
        assert self.api.model_info(name).private
        assert Path(hf_hub_download(name, "a.txt")).read_text() == "secret"
        assert name in [m.id for m in self.api.list_models(author=self.user)]

    def row_gated(self) -> None:
        """gated: refused, asked for, accepted, downloaded"""
        name = f"{self.user}/gated"
        self.api.create_repo(name)
        self.api.upload_file(path_or_fileobj=b"gated", path_in_repo="a.txt", repo_id=name)
        self.api.update_repo_settings(name, gated="manual")
        assert self.api.model_info(name, token=False).gated == "manual"
        for token in (False, self.other):
            raises(GatedRepoError, lambda t=token: hf_hub_download(name, "a.txt", token=t))
        raises(GatedRepoError, lambda: self.api.auth_check(name, token=self.other))
        request = urllib.request.Request(
            f"{ENDPOINT}/{name}/ask-access", b"why=test", {"Authorization": f"Bearer {self.other}"}
        )
        assert json.load(urllib.request.urlopen(request)) == {"status": "pending"}
        (pending,) = self.api.list_pending_access_requests(name)
        self.api.accept_access_request(name, pending.username)
        assert [r.username for r in self.api.list_accepted_access_requests(name)] == [pending.username]
        assert Path(hf_hub_download(name, "a.txt", token=self.other)).read_text() == "gated"
        self.api.auth_check(name, token=self.other)
        self.api.reject_access_request(name, pending.username, rejection_reason="over")
        raises(GatedRepoError, lambda: self.api.auth_check(name, token=self.other))

    def row_stale_parent(self) -> None:
        """create_commit on a commit that is not the head any more"""
        old = self.api.model_info(self.repo).sha
        add = CommitOperationAdd("stale.txt", b"1")
        made = self.api.create_commit(self.repo, [add], commit_message="new", parent_commit=old)
        assert made.oid == self.api.model_info(self.repo).sha
        again = CommitOperationAdd("stale.txt", b"2")
        error = raises(
            HfHubHTTPError,
            lambda: self.api.create_commit(self.repo, [again], commit_message="late", parent_commit=old),
        )
        assert error.response.status_code in (409, 412)
        assert made.oid in str(error), error

    def row_multipart(self) -> None:
        """LFS in several parts: bytes in memory, which no client sends through Xet"""
        data = pattern(LARGE, 3)
        self.api.upload_file(path_or_fileobj=io.BytesIO(data), path_in_repo="parts.bin", repo_id=self.repo)
        assert Path(hf_hub_download(self.repo, "parts.bin")).read_bytes() == data

    def row_operations(self) -> None:
        """one commit that adds, copies and deletes; delete_folder; a missing file"""
        self.api.create_commit(
            self.repo,
            [
                CommitOperationAdd("new/a.txt", b"a"),
                CommitOperationCopy("model.safetensors", "new/copy.safetensors"),
                CommitOperationDelete("stale.txt"),
            ],
            commit_message="several",
            commit_description="three\nthings",
        )
        entries = {
            e.path: e for e in self.api.get_paths_info(self.repo, ["new/copy.safetensors", "stale.txt"])
        }
        assert list(entries) == ["new/copy.safetensors"]
        assert entries["new/copy.safetensors"].lfs["sha256"] == sha256(self.folder / "model.safetensors")
        newest = self.api.list_repo_commits(self.repo)[0]
        assert (newest.title, newest.message.strip()) == ("several", "three\nthings")
        self.api.delete_folder("new", self.repo)
        assert not self.api.file_exists(self.repo, "new/a.txt")
        raises(EntryNotFoundError, lambda: self.api.delete_file("none.txt", self.repo))
        expanded = self.api.get_paths_info(self.repo, ["config.json"], expand=True)
        assert expanded[0].last_commit is not None

    def row_known_content(self) -> None:
        """a large file that the server has is not sent again, to no repository"""
        name = f"{self.user}/second"
        self.api.create_repo(name)
        self.mark("known-begin")
        self.api.upload_folder(repo_id=name, folder_path=self.folder, allow_patterns=["*.safetensors"])
        self.mark("known-end")
        got = hf_hub_download(name, "model.safetensors")
        assert sha256(Path(got)) == sha256(self.folder / "model.safetensors")

    def row_copy_between(self) -> None:
        """CommitOperationCopy of a large file from another repository"""
        if "src_repo_id" not in inspect.signature(CommitOperationCopy).parameters:
            raise Absent("CommitOperationCopy knows one repository")
        source = {"src_repo_id": self.repo, "src_repo_type": "model"}
        copy = CommitOperationCopy("sub dir/more.bin", "more.bin", **source)
        try:
            self.api.create_commit(f"{self.user}/second", [copy], commit_message="copy")
        except ValueError as error:
            # Nothing is sent: the client refuses to copy what has no Xet hash.
            if "no xet hash" in str(error):
                raise Absent("it copies only what can be downloaded through Xet") from None
            raise
        copied = hf_hub_download(f"{self.user}/second", "more.bin")
        assert sha256(Path(copied)) == sha256(self.folder / "sub dir" / "more.bin")

    def row_dataset(self) -> None:
        """a dataset: create, upload, list, load"""
        name = f"{self.user}/table"
        self.api.create_repo(name, repo_type="dataset")
        self.api.upload_file(
            path_or_fileobj=b"a,b\n1,2\n", path_in_repo="data/t.csv", repo_id=name, repo_type="dataset"
        )
        assert Path(hf_hub_download(name, "data/t.csv", repo_type="dataset")).read_text() == "a,b\n1,2\n"
        assert [d.id for d in self.api.list_datasets(author=self.user)] == [name]
        assert Path(snapshot_download(name, repo_type="dataset"), "data", "t.csv").is_file()
        assert HfFileSystem().ls(f"datasets/{name}/data", detail=False) == [f"datasets/{name}/data/t.csv"]

    def row_card(self) -> None:
        """model cards: read; refused when the metadata is broken"""
        assert hub.ModelCard.load(self.repo).data.license == "mit"
        bad = b"---\ntags: [a\n---\n"
        error = raises(
            (ValueError, HfHubHTTPError),
            lambda: self.api.upload_file(path_or_fileobj=bad, path_in_repo="README.md", repo_id=self.repo),
        )
        assert "not valid YAML: line" in str(error), error

    def row_card_update(self) -> None:
        """metadata_update"""
        if "https://huggingface.co/api/validate-yaml" in inspect.getsource(hub.repocard):
            raise Absent("it checks cards at huggingface.co, whatever the endpoint is")
        hub.metadata_update(self.repo, {"library_name": "llmasos"})
        assert self.api.model_info(self.repo).library_name == "llmasos"

    def row_lists(self) -> None:
        """list_models: search, author, filter, full"""
        names = [f"{self.user}/listed-{n}" for n in range(3)]
        for name in names:
            self.api.create_repo(name)
        sort = "createdAt" if not self.modern else "created_at"
        found = [m.id for m in self.api.list_models(search="listed-", author=self.user, sort=sort)]
        assert found == names[::-1], found
        assert [m.id for m in self.api.list_models(author=self.user, filter="conformance")] == [self.repo]
        full = next(iter(self.api.list_models(author=self.user, filter="conformance", full=True)))
        assert "config.json" in [s.rfilename for s in full.siblings or []]

    def row_models_ls(self) -> None:
        """hf models ls --search"""
        if not self.modern:
            raise Absent("no `hf models ls`")
        text = self.command("models", "ls", "--search", "listed-1", "--author", self.user, "-q")
        assert text.split() == [f"{self.user}/listed-1"], text

    def row_move(self) -> None:
        """move_repo: the old name leads to the new one"""
        self.api.create_repo(f"{self.user}/old")
        self.api.upload_file(path_or_fileobj=b"moved", path_in_repo="a b.txt", repo_id=f"{self.user}/old")
        self.api.move_repo(f"{self.user}/old", f"{self.user}/new")
        assert self.api.model_info(f"{self.user}/old").id == f"{self.user}/new"
        assert Path(hf_hub_download(f"{self.user}/old", "a b.txt")).read_text() == "moved"
        assert self.api.list_repo_files(f"{self.user}/old") == ["a b.txt"]

    def row_discussions(self) -> None:
        """discussions: open, comment, rename, close, list; a pull request is refused in words"""
        made = self.api.create_discussion(self.repo, title="why", description="text")
        self.api.comment_discussion(self.repo, made.num, comment="because")
        self.api.rename_discussion(self.repo, made.num, new_title="why so")
        self.api.change_discussion_status(self.repo, made.num, new_status="closed")
        details = self.api.get_discussion_details(self.repo, made.num)
        assert (details.title, details.status) == ("why so", "closed")
        assert [e.type for e in details.events] == ["comment", "comment", "title-change", "status-change"]
        assert [d.num for d in self.api.get_repo_discussions(self.repo)] == [made.num]
        error = raises(HfHubHTTPError, lambda: self.api.create_pull_request(self.repo, title="pr"))
        assert "does not support pull requests" in str(error), error

    def row_unsupported(self) -> None:
        """what the server has not is refused with its message"""
        for function in (
            lambda: self.api.create_repo(f"{self.user}/s", repo_type="space", space_sdk="static"),
            lambda: self.api.list_collections(owner=self.user).__next__(),
            lambda: (
                self.api.like(self.repo) if hasattr(self.api, "like") else self.api.get_user_overview("x")
            ),
        ):
            error = raises(HfHubHTTPError, function)
            assert error.response.status_code == 501, error
            assert "does not support" in str(error), error

    def row_leaderboard(self) -> None:
        """leaderboard of a dataset"""
        if not hasattr(self.api, "get_dataset_leaderboard"):
            raise Absent("no get_dataset_leaderboard")
        text = f"- dataset: {{id: {self.user}/table, task_id: main}}\n  value: 0.5\n"
        self.api.upload_file(
            path_or_fileobj=text.encode(), path_in_repo=".eval_results/table.yaml", repo_id=self.repo
        )
        (entry,) = self.api.get_dataset_leaderboard(f"{self.user}/table")
        assert (entry.rank, entry.model_id, entry.value) == (1, self.repo, 0.5)

    def row_squash(self) -> None:
        """super_squash_history: one commit, the same files"""
        before = self.api.list_repo_files(self.repo)
        self.api.super_squash_history(self.repo, commit_message="squashed")
        assert [c.title for c in self.api.list_repo_commits(self.repo)] == ["squashed"]
        assert self.api.list_repo_files(self.repo) == before

    def row_login(self) -> None:
        """hf auth login --token, then use without a variable"""
        environ = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"}
        environ["HF_HOME"] = str(self.work / "other-home")

        def run(*words: str) -> tuple[int, str]:
            done = subprocess.run(
                [self.hf, *words], env=environ, capture_output=True, text=True, timeout=60, check=False
            )
            return done.returncode, done.stdout + done.stderr

        status, text = run("auth", "login", "--token", os.environ["HF_TOKEN"])
        assert status == 0, text
        status, text = run("auth", "whoami")
        assert (status, self.user in text) == (0, True), text

    def row_delete(self) -> None:
        """hf repos delete"""
        if self.modern:
            self.command("repos", "delete", self.repo, "--yes")
        else:
            self.api.delete_repo(self.repo)
        assert not self.api.repo_exists(self.repo)
        raises(RepositoryNotFoundError, lambda: self.api.delete_repo(self.repo))
        self.api.delete_repo(self.repo, missing_ok=True)


def pattern(size: int, seed: int) -> bytes:
    """Bytes that do not compress and do not repeat, the same each time."""
    out = bytearray()
    block = hashlib.sha256(str(seed).encode()).digest()
    while len(out) < size:
        block = hashlib.sha512(block).digest()
        out += block
    return bytes(out[:size])


def sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def raises(kind: Any, function: Callable[[], Any]) -> Any:
    """The error that the function ends with."""
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")


def main() -> None:
    """Run every row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", required=True)
    parser.add_argument("--other-token", required=True)
    parser.add_argument("--work", required=True, type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = Rows(options.user, options.other_token, options.work)
    for name in [name for name in vars(Rows) if name.startswith("row_")]:
        method = getattr(rows, name)
        start = time.perf_counter()
        outcome, detail = "pass", ""
        try:
            method()
        except Absent as absent:
            outcome, detail = "absent", str(absent)
        except Exception:
            outcome, detail = "fail", traceback.format_exc()[-3000:]
        seconds = round(time.perf_counter() - start, 2)
        line = {"row": name.removeprefix("row_"), "what": method.__doc__, "outcome": outcome}
        print(json.dumps({**line, "detail": detail, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
