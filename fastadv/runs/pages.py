"""Memory that a process has been given stays with it, so that its pages do not fault again.

A pass frees its activations, and the next needs as much again. glibc hands large blocks back to the system,
and each of their pages faults when it is used again, which takes longer than to write to it.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

# names in glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = 2**31 - 1
LARGEST, KEPT = 1 << 28, 1 << 30  # bytes: of a block, and of all free memory at the end of the heap


def keep_pages() -> None:
    """Let the C library keep freed blocks of up to LARGEST bytes, KEPT in all, for the whole process.

    It does so once, and not where FASTADV_KEEP_PAGES is 0, or where variables of glibc say what it keeps.
    Only glibc knows these options.
    """
    if os.environ.get("FASTADV_KEEP_PAGES") != "0" and not is_told():
        _keep(((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, KEPT)))


def keep_all_pages() -> bool:
    """Let the C library keep all memory, which is for commands alone: the process is theirs.

    Returns whether it could be told.
    """
    return _keep(((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER)))


def is_told() -> bool:
    """Return whether variables of glibc say what it keeps."""
    return any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    )


_told: list[bool] = []


def _keep(options: tuple[tuple[int, int], ...]) -> bool:
    """Tell the C library, unless it was told before."""
    if not _told:
        tell = _mallopt()
        _told.append(tell is not None and all(tell(*option) for option in options))
    return _told[0]


@cache
def _mallopt() -> Callable[[int, int], Any] | None:
    try:
        found: Callable[[int, int], Any] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return None
    return found
