"""What an attack tells of itself: the arguments that are bound to it, and those that it takes."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from fastadv.attacks import AttackResult
from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.core.common import parameters_of
from fastadv.attacks.methods.claims import Within
from fastadv.threat import Threat

Attack = Callable[..., AttackResult]
"""(model, x, y) or (model, x, y, ids=ids) -> AttackResult or x_adv: partial(fa.attacks.pgd, threat=L)."""

Threats = Threat | Sequence[Threat]


def threat_of(attack: Any) -> Threat | None:
    """Return the threat that is bound to an attack, or in which its points are judged."""
    given = bound(attack, "threat"), bound(attack, "within")
    return next((one for one in given if isinstance(one, Threat)), None)


def held_by(attack: Attack) -> Threat | None:
    """Return the threat that an object which attacks has of its own; None without."""
    held = (getattr(layer, "threat", None) for layer in layers(attack))
    return next((one for one in held if isinstance(one, Threat)), None)


def minimizes(attack: Any) -> bool:
    """Return whether it is a minimum-norm attack: one of `fastadv.attacks`, or with a `minimum`."""
    known = [entry.run for entry in REGISTRY.values() if entry.minimal]
    for layer in layers(attack):
        if any(layer is one for one in known):
            return True
        if isinstance(says := getattr(layer, "minimum", None), bool):
            return says
    return False


def takes(attack: Attack, name: str) -> bool:
    """Return whether an attack can be called with an argument of this name, as far as it tells."""
    known = parameters_of(attack, wrapped=False)
    return not known or name in known or any(one.kind is one.VAR_KEYWORD for one in known.values())


def bound(attack: Any, name: str) -> Any:
    """Return the argument of this name that is bound to an attack, perhaps inside another; None without."""
    given = (layer.keywords for layer in layers(attack) if isinstance(layer, partial | Within))
    return next((keywords[name] for keywords in given if name in keywords), None)


def layers(attack: Any) -> Iterator[Any]:
    """Yield an attack and what it wraps, from outside to inside."""
    while attack is not None:
        yield attack
        attack = getattr(attack, "func", getattr(attack, "__wrapped__", None))
