"""An attack with its arguments as text names it: pgd:steps=100,norm=l2,radius=0.5."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastadv.arguments import name_and_arguments, nameable, needed, parse_arguments
from fastadv.attacks import Attack, AttackResult
from fastadv.attacks.core.card import card_of
from fastadv.attacks.methods.claims import Within, is_own
from fastadv.errors import InputError
from fastadv.threat import THREATS, Threat

OPEN = {"steps": 40, "queries": 1000}  # of an argument for which an attack has no default


@dataclass(frozen=True)
class Plan:
    """What text says of an attack; `shared` arguments hold where it takes them and the text says nothing."""

    name: str  # of the attack, or package.module:function
    tail: str  # the arguments as text
    card: Attack
    threat: Threat  # of an infinite radius where nothing says one
    arguments: Mapping[str, Any]
    said: frozenset[str]  # the arguments that the text names, norm and radius among them
    used: frozenset[str]  # those of `shared` that it takes

    @property
    def short(self) -> str:
        """The name of the function."""
        return self.name.rpartition(":")[2]

    @property
    def radius(self) -> float:
        return float(self.threat.radius)

    @property
    def label(self) -> str:
        """What it is called in a table."""
        return f"{self.short}:{self.tail}" if self.tail else self.short

    @property
    def own(self) -> bool:
        """Whether it is the caller's own function."""
        return is_own(self.card.run)

    @property
    def run(self) -> Callable[..., AttackResult]:
        """The attack with its arguments, and with the threat where there is a norm or a radius."""
        run = partial(self.card.run, **self.arguments) if self.arguments else self.card.run
        if not self.said & {"norm", "radius"}:
            return run
        if "radius" not in self.said and not self.card.minimal:
            raise InputError(
                f"attack {self.label!r}: expected a radius beside the norm, got none; write "
                f"{self.label},radius=0.5"
            )
        return within(run, self.card, self.threat)

    def at(self, radius: float) -> Callable[..., AttackResult]:
        """Return the attack in a ball of this radius."""
        threat = THREATS[self.threat.norm](radius)
        return within(partial(self.card.run, **self.arguments), self.card, threat)


def within(run: Callable[..., AttackResult], card: Attack, threat: Threat) -> Callable[..., AttackResult]:
    """Return an attack in a threat, or one that takes none as it is judged there."""
    if card.takes("threat"):
        return partial(run, threat=threat)
    return Within(run, threat) if is_own(run) and threat.finite else run


def read(what: str, text: str, known: Mapping[str, Attack], shared: Mapping[str, Any] | None = None) -> Plan:
    """Read NAME or NAME:key=value,key=value; InputError for what has no sense."""
    name, tail = name_and_arguments(text, known)
    card = card_of(what, name, known)
    takes: dict[str, set[type]] = {}
    if card.takes("threat") or is_own(card.run):
        takes = {"norm": {str}, "radius": {float}}
    takes |= nameable(card.parameters)
    in_text = parse_arguments(f"attack {text!r}", name, tail, takes)
    used = {key: value for key, value in (shared or {}).items() if key in takes and key not in in_text}
    arguments = {key: OPEN[key] for key in OPEN if key in needed(card.parameters)} | used | in_text
    norm = str(arguments.pop("norm", "linf" if "linf" in card.norms else card.norms[0]))
    if norm not in card.norms:
        raise InputError(f"{name} works in {', '.join(card.norms)}, not in {norm!r}")
    threat = THREATS[norm](arguments.pop("radius", math.inf))  # wrong values are refused before the work
    return Plan(name, tail, card, threat, arguments, frozenset(in_text), frozenset(used))
