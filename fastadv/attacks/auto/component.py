"""A component of AutoAttack: an attack with a name and its arguments."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.apgd import apgd
from fastadv.attacks.core.inner import InnerAttack, call_attack
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.fab import fab
from fastadv.attacks.pdpgd import pdpgd
from fastadv.attacks.square import square
from fastadv.engine import Prepared
from fastadv.errors import InputError

ATTACKS: dict[str, InnerAttack] = {"apgd": apgd, "fab": fab, "pdpgd": pdpgd, "square": square}


@dataclass(frozen=True)
class Component:
    """One attack of a version of AutoAttack: its name in reports, its function, and its arguments.

    Args:
        name: its name in `AutoAttackResult.by` and `costs`; not empty.
        attack: "apgd", "fab", "pdpgd", "square", or a function of your own. A function is called as
            attack(model, x, y, threat=..., targets=..., ids=..., `**arguments`), with the criterion and the
            mask where there are any, and with a `seed` if it takes one; it returns an `AttackResult`.
        arguments: further arguments of the attack, by name; none by default.

    Raises:
        InputError: the name is empty, the attack is neither a known name nor a function, or an argument has
            no name.
    """

    name: str
    attack: str | InnerAttack
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"Component: expected a name for reports, got {self.name!r}")
        if not callable(self.attack) and self.attack not in ATTACKS:
            known = ", ".join(ATTACKS)
            raise InputError(f"Component: expected one of {known} or an attack function, got {self.attack!r}")
        if not isinstance(self.arguments, Mapping):
            raise InputError(f"Component: expected arguments by name, in a dict, got {self.arguments!r}")

    @property
    def own(self) -> bool:
        """Whether the function is the caller's own, so that its successes have to be checked."""
        return not isinstance(self.attack, str)

    def run(self, model: Prepared, problem: Problem, seed: int) -> core.AttackResult:
        """Run the attack on the samples of a problem."""
        attack = ATTACKS[self.attack] if isinstance(self.attack, str) else self.attack
        arguments = dict(self.arguments)
        if _takes_seed(attack) and "seed" not in arguments:
            arguments["seed"] = rng.derive(seed, f"autoattack {self.name}")
        if self.attack == "fab":
            arguments.setdefault("restart_radius", problem.threat.radius)
        return call_attack(attack, model, problem, **arguments)


def _takes_seed(attack: InnerAttack) -> bool:
    """Return whether the attack has a seed that nobody has given yet."""
    if isinstance(attack, partial) and "seed" in attack.keywords:
        return False
    return "seed" in inspect.signature(attack).parameters
