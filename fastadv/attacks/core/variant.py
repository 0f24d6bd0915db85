"""Which algorithm an attack runs: this library's, or that of its paper."""

from typing import Any, Literal, get_args

from fastadv.errors import InputError

Variant = Literal["fastadv", "published"]


def check_variant(variant: Any) -> None:
    """Raise InputError unless `variant` is "fastadv" or "published"."""
    names = get_args(Variant)
    if variant not in names:
        raise InputError(f"variant: expected one of {', '.join(names)}, got {variant!r}")
