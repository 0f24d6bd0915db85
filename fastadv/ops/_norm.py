"""The norms that kernels tell apart: exponents by name, in the order of `enum class Norm` in csrc/kernels.h.

What else there is to know of a norm, its threat knows (fastadv/threat/).
"""

from math import inf

from fastadv.errors import InputError

ORDERS = {"linf": inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}


def check_norm(norm: str) -> None:
    """Raise InputError unless the kernels know `norm`."""
    if norm not in ORDERS:
        raise InputError(f"norm: expected one of {', '.join(ORDERS)}, got {norm!r}")


def code(norm: str) -> int:
    """The number by which C++ knows `norm`."""
    return list(ORDERS).index(norm)
