"""Memory that glibc would hand back after each pass stays with the process: its pages fault no more."""

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
    """Let the C library keep freed blocks of up to LARGEST bytes, KEPT in all, for the whole process."""
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    set_by_user = set_by_user or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if os.environ.get("FASTADV_KEEP_PAGES") != "0" and not set_by_user:
        _keep(((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, KEPT)))


def keep_all_pages() -> bool:
    """Let the C library keep all memory, for commands alone: the process is theirs. Whether it could."""
    return _keep(((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER)))


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
        mallopt: Callable[[int, int], Any] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return None
    return mallopt
