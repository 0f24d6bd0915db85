"""The norms that kernels tell apart by name, with their exponents (kNorms in csrc/kernels.h).

What else there is to know of a norm, its threat knows (fastadv/threat/).
"""

from math import inf

from fastadv.errors import InputError

ORDERS = {"linf": inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}


def check_norm(norm: str) -> None:
    """Raise InputError unless the kernels know `norm`."""
    if norm not in ORDERS:
        raise InputError(f"norm: expected one of {', '.join(ORDERS)}, got {norm!r}")
