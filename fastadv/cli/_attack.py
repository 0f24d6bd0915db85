"""From text such as `pgd:steps=100` to an attack."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastadv.attacks import Attack, AttackResult
from fastadv.attacks.core.card import card_of
from fastadv.attacks.methods.claims import Within, is_own
from fastadv.cli import _options as o
from fastadv.cli._shared import Budget
from fastadv.text import threat_text
from fastadv.threat import THREATS, Threat

# Values that the command line sets where the function leaves them open
DEFAULTS = {"steps": 40, "queries": 1000}
ATTACK = (
    f"{', '.join(o.registry())}; with arguments, pgd:steps=100; or your own as package.module:function, a "
    "function (model, x, y), with arguments behind another colon."
)
TITLED = ("steps", "norm", "radius", "version")  # arguments that a title says at its beginning


@dataclass(frozen=True)
class NamedAttack:
    """An attack as `evaluate` takes it: run(model, x, y, ids=ids)."""

    name: str
    label: str
    card: Attack
    threat: Threat  # of an infinite radius where there is no bound
    arguments: Mapping[str, Any]
    used: frozenset[str]  # the shared options that it takes

    @property
    def radius(self) -> float:
        return float(self.threat.radius)

    @property
    def own(self) -> bool:
        """Whether it is the caller's own function."""
        return is_own(self.card.run)

    @property
    def bounded(self) -> bool:
        """Whether it takes a threat, or its points are judged in one."""
        return self.card.takes("threat") or (self.own and self.radius < math.inf)

    @property
    def config(self) -> dict[str, Any]:
        threat = {"norm": self.threat.norm, "radius": self.radius} if self.bounded else {}
        return {"attack": self.name, **threat, **self.arguments}

    @property
    def title(self) -> str:
        """What a paper calls it, by its steps and its threat: PGD-40, L∞ 8/255."""
        defaults = {key: argument.default for key, argument in self.card.parameters.items()}
        values, name = {**defaults, **self.arguments}, self.card.name
        if name == "autoattack" and not self.own:
            name = f"AutoAttack {values['version']}"
        elif len(name) <= 5 and not self.own:  # an acronym
            name = name.upper()
        name += f"-{values['steps']}" if isinstance(values.get("steps"), int) else ""
        within = [threat_text(self.threat)] if self.bounded else []
        others = [part for part in self.label.partition(":")[2].split(",") if part]
        return ", ".join([name, *within, *(part for part in others if part.split("=")[0] not in TITLED)])

    @property
    def run(self) -> Callable[..., AttackResult]:
        run = self.at(self.radius)
        run.title = self.title  # type: ignore[attr-defined]
        return run

    def at(self, radius: float) -> Callable[..., AttackResult]:
        threat = THREATS[self.threat.norm](radius)
        run = partial(self.card.run, **self.arguments)
        if self.card.takes("threat"):
            return partial(run, threat=threat)
        return Within(run, threat) if self.own and radius < math.inf else run


def parse_attacks(texts: list[str], budget: Budget, seed: int) -> dict[str, NamedAttack]:
    """Parse attacks, by their labels. Wrong usage for text without sense, and options that none takes."""
    attacks = [parse_attack(text, budget, seed) for text in texts]
    idle = {name: value for name, value in budget.chosen.items() if not any(name in a.used for a in attacks)}
    o.refuse_set(f"has no effect on {', '.join(texts)}; leave it out.", **idle)
    return {attack.label: attack for attack in attacks}


def parse_attack(text: str, budget: Budget, seed: int) -> NamedAttack:
    """Parse NAME or NAME:key=value,key=value; the budget holds where it is taken and `text` says nothing."""
    name, tail = o.name_and_arguments(text)
    attack, where = card_of("attack", name, o.registry()), f"attack {text!r}"
    bounded = attack.takes("threat")
    takes: dict[str, set[type]] = {"norm": {str}, "radius": {float}} if bounded or is_own(attack.run) else {}
    takes |= o.nameable(attack.parameters)
    in_text = o.parse_arguments(where, name, tail, takes)
    shared = {key: value for key, value in budget.chosen.items() if key in takes and key not in in_text}
    values = shared | in_text
    norm = str(values.pop("norm", "linf" if "linf" in attack.norms else attack.norms[0]))
    if norm not in attack.norms:
        o.refuse(f"{name} works in {', '.join(attack.norms)}, not in {norm!r}.")
    if bounded and not attack.minimal and "radius" not in values:
        o.refuse(f"{where} has no radius; give --radius, or {name}:radius=0.3.")
    threat = THREATS[norm](values.pop("radius", math.inf))  # wrong values are refused before the work
    arguments = {key: DEFAULTS[key] for key in DEFAULTS if key in o.needed(attack.parameters)}
    arguments |= ({"seed": seed} if "seed" in takes else {}) | values
    radius = "" if threat.radius == math.inf else f" {threat.radius:g}"
    short = name.rpartition(":")[2]
    label = f"{short}:{tail}" if tail else f"{short} {threat.symbol}{radius}" if bounded or radius else short
    return NamedAttack(name, label, attack, threat, arguments, frozenset(shared))
