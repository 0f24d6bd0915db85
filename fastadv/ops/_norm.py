"""The norms that kernels tell apart by name, with their exponents (kNorms in csrc/kernels.h).

Everything else about a norm is in its threat (fastadv/threat/).
"""

from math import inf

from fastadv.errors import InputError

ORDERS = {"linf": inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}


def check_norm(norm: str) -> None:
    """Raise InputError unless the kernels serve `norm`."""
    if norm not in ORDERS:
        raise InputError(f"norm: expected one of {', '.join(ORDERS)}, got {norm!r}")
