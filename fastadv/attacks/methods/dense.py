"""The criterion of attacks on a class at each position."""

from collections.abc import Mapping
from typing import Any

from fastadv.attacks.core.task import handed
from fastadv.attacks.criteria.share import Share
from fastadv.errors import InputError


def share_of(model: object) -> Share:
    """Return the criterion of the task of an attack that `needs_share`."""
    criterion = handed(model).criterion
    assert isinstance(criterion, Share)
    return criterion


def needs_share(attack: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Raise InputError unless the criterion of an attack of classes at positions is a Share."""
    if not isinstance(criterion := arguments.get("criterion"), Share):
        raise InputError(
            f"criterion: expected Share(least), as {attack} attacks a class at each position, got "
            f"{criterion!r}; pass criterion=fastadv.attacks.Share(least), or attack other outputs with pgd"
        )
    return {}
