"""Attacks of a command: what is said once for all of them, and what papers call each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastadv.attacks import AttackResult
from fastadv.cli import _options as o
from fastadv.cli._shared import Budget
from fastadv.measure.plan import Plan, read
from fastadv.text import threat_text

ATTACK = (
    f"{', '.join(o.registry())}; with arguments, pgd:steps=100; or your own as package.module:function, a "
    "function (model, x, y), with arguments behind another colon."
)
TITLED = ("steps", "norm", "radius", "version")  # arguments that a title says at its beginning


@dataclass(frozen=True)
class NamedAttack(Plan):
    """An attack as `evaluate` takes it: run(model, x, y, ids=ids)."""

    @property
    def bounded(self) -> bool:
        """Whether it takes a threat, or its points are judged in one."""
        return self.card.takes("threat") or (self.own and self.threat.finite)

    @property
    def label(self) -> str:
        radius = f" {self.radius:g}" if self.threat.finite else ""
        told = f" {self.threat.symbol}{radius}" if self.bounded or radius else ""
        return super().label + ("" if self.tail else told)

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
        where = [threat_text(self.threat)] if self.bounded else []
        others = [part for part in self.tail.split(",") if part and part.split("=")[0] not in TITLED]
        return ", ".join([name, *where, *others])

    @property
    def run(self) -> Callable[..., AttackResult]:
        run = self.at(self.radius)
        run.title = self.title  # type: ignore[attr-defined]
        return run


def parse_attacks(texts: list[str], budget: Budget, seed: int) -> dict[str, NamedAttack]:
    """Parse attacks, by their labels. Wrong usage for text without sense, and options that none takes."""
    attacks = [parse_attack(text, budget, seed) for text in texts]
    idle = {name: value for name, value in budget.chosen.items() if not any(name in a.used for a in attacks)}
    o.refuse_set(f"has no effect on {', '.join(texts)}; leave it out.", **idle)
    return {attack.label: attack for attack in attacks}


def parse_attack(text: str, budget: Budget, seed: int) -> NamedAttack:
    """Parse NAME or NAME:key=value,key=value; the budget holds where it is taken and `text` says nothing."""
    attack = NamedAttack(**vars(read("attack", text, o.registry(), {"seed": seed} | budget.chosen)))
    asked = "radius" in attack.said | attack.used
    if attack.card.takes("threat") and not (attack.card.minimal or asked):
        o.refuse(f"attack {text!r} has no radius; give --radius, or {attack.name}:radius=0.3.")
    return attack
