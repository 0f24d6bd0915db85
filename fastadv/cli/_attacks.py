"""From text such as `pgd:steps=100` to an attack."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

from fastadv.attacks import ATTACKS, Attack, AttackResult, Signs
from fastadv.cli import _options as o
from fastadv.cli._shared import Budget
from fastadv.losses import LOSSES
from fastadv.text import threat_text

# what the command line sets where the function leaves it open
DEFAULTS = {"steps": 40, "queries": 1000}
GIVEN = ("model", "x", "y", "threat")
CRITERIA = {"signs": Signs()}
TITLED = ("steps", "norm", "radius", "version")  # arguments that a title says at its beginning
SYNTAX = (
    "An attack is named alone, or with its arguments: pgd:steps=100,norm=l2,radius=0.5.",
    f"Attacks that ascend a loss take loss=NAME: {', '.join(LOSSES)}. dlr works with logits of "
    "any size, ce_sharp also with logits that are nearly alike: pgd, bim, mim, fgsm and apgd ascend it; "
    "loss=ce is what their papers ascend.",
)


def registry() -> dict[str, Attack]:
    """Return the attacks that commands can name, in alphabetical order: text can say all that each needs."""
    return {name: attack for name, attack in sorted(ATTACKS.items()) if _complete(attack)}


def _complete(attack: Attack) -> bool:
    needed = [one for key, one in attack.parameters.items() if key not in GIVEN and required(one)]
    return all(map(o.nameable, needed))


def names_attacks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Explain in the help of `command` how attacks are named, in lines of full width."""
    command.__doc__ = "\n\n".join([inspect.getdoc(command) or "", *SYNTAX])
    return command


def help_text(example: str) -> str:
    return f"{', '.join(registry())}; or with arguments, {example}."


class AttackOptions(Budget, title="Attack"):
    """What the command line says for all attacks that take it; None where it says nothing."""

    steps: int | None = o.count(None, "Steps of attacks that take steps; 40 where they have no default.")
    criterion: Literal["signs"] | None = o.option(
        None, "signs: the model has one logit, whose sign says whether the class is 1 or 0."
    )

    @property
    def given(self) -> dict[str, Any]:
        others = [field.name for field in fields(self) if field.name != "criterion"]
        named = {name: getattr(self, name) for name in others}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class NamedAttack:
    """An attack as `evaluate` takes it: run(model, x, y, ids=ids)."""

    name: str
    label: str
    norm: str
    function: Callable[..., AttackResult]
    arguments: Mapping[str, Any]
    used: frozenset[str]  # the shared options that it takes
    minimal: bool
    radius: float  # inf for a minimum-norm attack without bound
    criterion: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        named = {"criterion": self.criterion} if self.criterion else {}
        return {"attack": self.name, "norm": self.norm, "radius": self.radius, **self.arguments, **named}

    @property
    def title(self) -> str:
        """What a paper calls it, by its steps and its threat: PGD-40, L∞ 8/255."""
        steps = {**{key: one.default for key, one in ATTACKS[self.name].parameters.items()}, **self.arguments}
        name = self.name.upper() if len(self.name) <= 5 else self.name  # acronyms
        name = f"AutoAttack {steps['version']}" if name == "autoattack" else name
        name += f"-{steps['steps']}" if isinstance(steps.get("steps"), int) else ""
        own = [each for each in self.label.partition(":")[2].split(",") if each.split("=")[0] not in TITLED]
        return ", ".join([name, threat_text(o.make_threat(self.norm, self.radius)), *filter(None, own)])

    @property
    def run(self) -> Callable[..., AttackResult]:
        run = self.at(self.radius)
        run.title = self.title  # type: ignore[attr-defined]
        return run

    def at(self, radius: float) -> Callable[..., AttackResult]:
        bound = {"criterion": CRITERIA[self.criterion]} if self.criterion else {}
        return partial(self.function, threat=o.make_threat(self.norm, radius), **self.arguments, **bound)


def parse_attacks(texts: list[str], options: AttackOptions, seed: int) -> dict[str, NamedAttack]:
    """Parse attacks, by their labels. Wrong usage for text without sense, and options that none takes."""
    named = [parse_attack(text, options, seed) for text in texts]
    by_label = {attack.label: attack for attack in named}
    if len(by_label) < len(named):
        o.refuse(f"the same attack is named twice: {', '.join(texts)}.")
    for option in options.given:
        if not any(option in attack.used for attack in named):
            flag = option.replace("_", "-")
            o.refuse(f"--{flag} has no effect on {', '.join(texts)}; leave it out.")
    return by_label


def parse_attack(text: str, options: AttackOptions, seed: int) -> NamedAttack:
    """Parse NAME or NAME:key=value,key=value; `options` hold where it takes them and `text` says nothing."""
    name, _, tail = text.partition(":")
    attack, where = registry()[o.look_up("attack", name, registry())], f"attack {text!r}"
    takes = {key: one for key, one in attack.parameters.items() if o.nameable(one)}
    known = {"norm": None, "radius": None, **takes}
    own = o.parse_arguments(where, name, tail, known)
    shared = {key: value for key, value in options.given.items() if key in known and key not in own}
    given = shared | own
    norm = str(given.pop("norm", "linf" if "linf" in attack.norms else attack.norms[0]))
    radius = given.pop("radius", math.inf if attack.minimal else None)
    if radius is None:
        o.refuse(f"{where} has no radius; give --radius, or {name}:radius=0.3.")
    if norm not in attack.norms:
        o.refuse(f"{name} works in {', '.join(attack.norms)}, not in {norm!r}.")
    o.make_threat(norm, radius)  # wrong values are told before the work
    arguments = {key: value for key, value in DEFAULTS.items() if key in takes and required(takes[key])}
    arguments |= ({"seed": seed} if "seed" in takes else {}) | given
    bound = "" if radius == math.inf else f" {radius:g}"
    label = text if tail else f"{name} {o.symbol(norm)}{bound}"
    return NamedAttack(
        name, label, norm, attack.run, arguments, frozenset(shared), attack.minimal, float(radius),
        options.criterion,
    )  # fmt: skip


def required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty
