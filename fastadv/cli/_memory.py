"""Memory that a process has been given stays with it."""

import ctypes

# names in glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_memory() -> bool:
    """Tell the C library not to hand freed memory back to the system. Returns whether it could be told.

    Each training step frees its activations and needs as much again, whose pages would fault one by one: on
    one core that is a sixth of the time of a small CNN. It holds for the whole process, and is thus for
    commands, not for a library. Only glibc knows these options.
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(tell(M_MMAP_MAX, 0)) and bool(tell(M_TRIM_THRESHOLD, NEVER))
