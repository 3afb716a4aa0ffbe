"""Opening files safely: only regular files, memory-mapped copy-on-write, recognised by content.

The maps are private (copy-on-write): writing into a tensor that is a view of the file never changes the file, and does
not crash either, as a read-only map would.
"""

from __future__ import annotations

import errno
import mmap
import os
import platform
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from llmasos.api import BlockWeight, LlmasosError, MissingDependency, ModelNotFound, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

#: What the first bytes of a file say it is; "" when they say nothing.
Content = Literal["gguf", "safetensors", "zip", "pickle", ""]

# Linux charges a private writable map against memory unless told that most of it will never be written.
# The constant has a name in the mmap module only from Python 3.13 on.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if platform.machine() in ("x86_64", "aarch64") else 0)

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def _refuse(path: Path, error: OSError | ValueError) -> LlmasosError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ModelNotFound(
            f"{path}: no such file or directory",
            hint="check the path; a model is a directory or one weight file",
        )
    if isinstance(error, PermissionError):
        return WeightsError(
            f"{path}: permission to read it was denied", hint=f"make it readable: chmod u+r {path}"
        )
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return WeightsError(
            f"{path}: the symbolic link leads back to itself", hint="download the model again"
        )
    return WeightsError(f"{path}: cannot be opened: {error}", hint="check the path and the file system")


def locate(path: Path) -> Literal["file", "directory"]:
    """What a path the user named is. Raises ModelNotFound when it leads nowhere, WeightsError when it may not be seen."""
    try:
        return "directory" if stat.S_ISDIR(os.stat(path).st_mode) else "file"
    except (OSError, ValueError) as error:
        raise _refuse(path, error) from error


def names_in(directory: Path) -> list[str]:
    """Names in a directory, sorted. Raises as ``locate``."""
    try:
        return sorted(os.listdir(directory))
    except (OSError, ValueError) as error:
        raise _refuse(directory, error) from error


def open_regular(path: Path) -> tuple[int, int]:
    """Open a regular file for reading: (file descriptor, size in bytes). Symbolic links are followed (the Hugging Face
    cache is made of them).

    Raises ModelNotFound when there is no such file; WeightsError when it is a directory, pipe, socket or device (a
    pipe could block for ever, a device has no size), or may not be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise WeightsError(
                f"{path}: not a regular file", hint="name a model directory or one weight file"
            )
        # Non-blocking, because the path may have become a pipe since the line above.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise _refuse(path, error) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise WeightsError(f"{path}: not a regular file", hint="name a model directory or one weight file")
    return descriptor, status.st_size


def read_bounded(path: Path, limit: int) -> bytes:
    """The whole of a small file. Raises as ``open_regular`` does, and WeightsError when it is over ``limit`` bytes."""
    descriptor, size = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        if size > limit:
            raise WeightsError(
                f"{path}: {size} bytes, more than the {limit} such a file may have",
                hint="this is not the file it should be",
            )
        return file.read(limit)


def refuse_pointer(path: Path, head: bytes) -> None:
    """Raise WeightsError when a file that begins with ``head`` is what git leaves in place of a large file."""
    if head.startswith(_LFS_POINTER):
        raise WeightsError(
            f"{path}: a Git LFS pointer, not the weights themselves",
            hint="fetch the real file: git lfs pull, or hf download",
        )


def sniff(path: Path) -> Content:
    """Recognise a weight file by its first bytes; never raises."""
    try:
        descriptor, size = open_regular(path)
    except LlmasosError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        head = file.read(16)
    if head[:4] == b"GGUF":
        return "gguf"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return ""


def import_torch() -> Any:
    """The torch module. Raises MissingDependency when it is not installed; headers are read without it."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependency(
            "reading tensors needs torch, which is not installed", hint="pip install 'llmasos[torch]'"
        ) from error
    return torch


@runtime_checkable
class Releasable(Protocol):
    """A checkpoint that can be told which tensors have been read for good."""

    def release(self, name: str) -> None:
        """No view of this tensor is needed any more."""


@runtime_checkable
class BlockCheckpoint(Protocol):
    """A checkpoint whose weights may be quantised in blocks."""

    block_bits: int | None

    def blocks(self, name: str, *, transposed: bool) -> BlockWeight | None:
        """The matrix as the file keeps it; None where it is not in blocks along its rows."""


class MappedFile:
    """A regular file mapped copy-on-write; ``view`` is its bytes.

    Raises ModelNotFound or WeightsError as ``open_regular``; WeightsError for an empty file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor, self.size = open_regular(path)
        try:
            if self.size == 0:
                raise WeightsError(f"{path}: the file is empty", hint="download it again")
            if sys.platform == "linux":
                self._map: mmap.mmap | None = mmap.mmap(
                    descriptor,
                    self.size,
                    flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
                    prot=mmap.PROT_READ | mmap.PROT_WRITE,
                )
            else:
                self._map = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_COPY)
        except (OSError, ValueError, OverflowError) as error:
            raise WeightsError(f"{path}: {self.size} bytes cannot be memory-mapped: {error}") from error
        finally:
            os.close(descriptor)
        self._view: memoryview | None = memoryview(self._map)
        refuse_pointer(path, bytes(self._view[: len(_LFS_POINTER)]))

    @property
    def view(self) -> memoryview:
        """The bytes. Raises WeightsError after ``close``."""
        if self._view is None:
            raise WeightsError(f"{self.path}: the checkpoint was closed", hint="open it again")
        return self._view

    def check(self) -> memoryview:
        """``view``, after making sure that the file has not shrunk on disk since it was mapped (WeightsError).

        Touching a mapped page that no longer exists kills the process, so this is asked before each tensor is read.
        """
        view = self.view
        now = self._map.size() if self._map is not None else 0
        if now < self.size:
            raise WeightsError(
                f"{self.path}: the file shrank from {self.size} to {now} bytes while it was open",
                hint="do not write to a model that is in use; download it again",
            )
        return view

    def tensor(self, dtype: str, shape: tuple[int, ...], begin: int) -> Tensor:
        """The little-endian elements from byte ``begin`` as a tensor: a view of the map, or a copy where ``begin`` is not
        a multiple of the element size (torch's kernels assume that it is).

        The caller has checked that ``shape`` fits in the file. Raises WeightsError as ``check``, MissingDependency
        without torch.
        """
        view = self.check()
        torch = import_torch()
        if sys.byteorder != "little":
            raise WeightsError(f"{self.path}: weights are little-endian and this machine is not")
        element = getattr(torch, dtype)
        count = 1
        for size in shape:
            count *= size
        if count == 0:
            empty: Tensor = torch.empty(shape, dtype=element)
            return empty
        raw: Tensor = torch.frombuffer(view, dtype=torch.uint8, count=count * element.itemsize, offset=begin)
        if begin % element.itemsize:
            raw = raw.clone()
        return raw.view(element).reshape(shape)

    def release(self, begin: int, nbytes: int) -> None:
        """Let the pages of these bytes leave memory, where the system can; whoever reads them again reads the file again.

        What was written to a view of them is lost.
        """
        advice = getattr(mmap, "MADV_DONTNEED", None)
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (begin + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if self._map is not None and advice is not None and length > 0:
            self._map.madvise(advice, first, length)

    def close(self) -> None:
        """Drop the map; what still views it (tensors, header arrays) keeps it alive until it is gone itself.

        The map is never closed by force: torch keeps the object behind a view alive but not its buffer lock, so that
        ``mmap.close`` would succeed and leave tensors pointing at nothing.
        """
        self._view = None
        self._map = None
