"""Keep freed memory in the process: a forward pass allocates the same large tensors again and again.

glibc hands blocks above a threshold back to the operating system as soon as they are freed, and takes new ones, page by
page, at the next layer. Kept in the process, they are there at once.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

#: Set to 0 to leave the allocator as it is.
VARIABLE = "LLMASOS_CPU_KEEP_MEMORY"
#: Parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
#: Bytes asked for beyond what is needed whenever the heap grows.
_PAD = 64 << 20
_NEVER = 2**31 - 1


def give_back() -> None:
    """Let free memory inside the heap leave the process once: after a model was built, for what that took is not needed again."""
    if sys.platform.startswith("linux"):
        with suppress(AttributeError):  # of another C library
            ctypes.CDLL(None).malloc_trim(0)


def keep_memory() -> str:
    """Tell the C library once to keep what is freed. Returns what was done, for ``llmasos backend info``.

    The process does not shrink afterwards, but by ``give_back``. Nothing happens where the C library is not glibc, or when the
    environment says so.
    """
    if os.environ.get(VARIABLE, "1") == "0":
        return f"left alone, because {VARIABLE}=0"
    if not sys.platform.startswith("linux"):
        return "left alone: this is not Linux"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return "left alone: the C library has no mallopt"
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    done = [
        mallopt(name, value) for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD))
    ]
    return "freed memory is kept" if all(done) else "left alone: the C library refused"
