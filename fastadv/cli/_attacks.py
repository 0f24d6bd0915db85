"""From text such as `pgd:steps=100` to an attack."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from torch import nn

from fastadv.attacks import ATTACKS, SUBSTITUTE_ATTACKS, Attack, AttackResult
from fastadv.cli import _options as o
from fastadv.cli._shared import Budget
from fastadv.losses import LOSSES

# what the command line sets where the function leaves it open
DEFAULTS = {"steps": 40, "queries": 1000}
GIVEN = ("model", "x", "y", "threat")
SYNTAX = (
    "An attack is named alone, or with its arguments: pgd:steps=100,norm=l2,radius=0.5.",
    f"Attacks that ascend a loss take loss=NAME: {', '.join(LOSSES)}. dlr works with logits of "
    "any size, ce_sharp also with logits that are nearly alike: pgd, bim, mim, fgsm and apgd ascend it; "
    "loss=ce is what their papers ascend.",
    "minimum_radius:attack=bim,steps=10 finds the least radius at which bim succeeds, and takes what bim "
    "takes.",
    "transfer:attack=bim,source=FILE makes perturbations on other weights of the model, in FILE; "
    "source=MODEL@FILE names another model, and + joins several.",
)


def registry() -> dict[str, Attack]:
    """Return the attacks that commands can name, in alphabetical order."""
    return dict(sorted({**ATTACKS, **SUBSTITUTE_ATTACKS}.items()))


def names_attacks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Explain in the help of `command` how attacks are named, in lines of full width."""
    command.__doc__ = "\n\n".join([inspect.getdoc(command) or "", *SYNTAX])
    return command


def help_text(example: str) -> str:
    return f"{', '.join(registry())}; or with arguments, {example}."


class AttackOptions(Budget, title="Attack"):
    """What the command line says for all attacks that take it; None where it says nothing."""

    steps: int | None = o.count(None, "Steps of attacks that take steps; 40 where they have no default.")

    @property
    def given(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class NamedAttack:
    """An attack as `evaluate` takes it: run(model, x, y, ids=ids)."""

    name: str
    label: str
    norm: str
    function: Callable[..., AttackResult]
    arguments: Mapping[str, Any]
    config: dict[str, Any]
    used: frozenset[str]  # the shared options that it takes
    minimal: bool
    radius: float  # inf for a minimum-norm attack without bound
    sources: tuple[str, ...] = ()  # the substitutes that it needs before it can run

    @property
    def run(self) -> Callable[..., AttackResult]:
        return self.at(self.radius)

    def at(self, radius: float) -> Callable[..., AttackResult]:
        return partial(self.function, threat=o.make_threat(self.norm, radius), **self.arguments)

    def with_sources(self, load: Callable[[str], nn.Module]) -> "NamedAttack":
        """Return the attack with the substitutes that its sources name, if it needs any."""
        if not self.sources:
            return self
        models = [load(source) for source in self.sources]
        return replace(self, arguments={**self.arguments, "source": models}, sources=())


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
    """Parse the attack that `text` names: NAME or NAME:key=value,key=value.

    The keys are arguments of its function, norm and radius. `options` hold where it takes them and `text`
    does not say otherwise. Where the function runs another attack, `attack` names that, and what only that
    one takes goes to it.
    """
    name, _, tail = text.partition(":")
    attack, where = _find(name), f"attack {text!r}"
    parts = [part for part in tail.split(",") if part]
    own, plain = o.pairs(parts, where), dict(part.partition("=")[::2] for part in parts)
    _check_complete(attack, plain)
    inner = _inner(attack, plain)
    keys = [key for key, parameter in attack.parameters.items() if o.nameable(parameter)]
    of_inner = inner.parameters if inner else {}
    inner_keys = [key for key, parameter in of_inner.items() if o.nameable(parameter) and key not in keys]
    models = [key for key in ("attack", "source") if key in attack.parameters]
    known = ["norm", "radius", *models, *keys, *inner_keys]
    unknown = [key for key in own if key not in known]
    if unknown:
        both = name if inner is None else f"{name} with {inner.name}"
        o.refuse(f"{both} takes no {unknown[0]!r}; it takes {', '.join(known)}.")
    takes = {**of_inner, **attack.parameters}
    own = {key: o.check_value(where, key, own[key], takes.get(key)) for key in own if key not in models}
    shared = {key: value for key, value in options.given.items() if key in known and key not in own}
    given = shared | own
    norms = [norm for norm in attack.norms if inner is None or norm in inner.norms]
    norm = str(given.pop("norm", "linf" if "linf" in norms else norms[0]))
    radius = given.pop("radius", math.inf if attack.minimal else None)
    if radius is None:
        o.refuse(f"{where} has no radius; give --radius, or {name}:radius=0.3.")
    if norm not in norms:
        choosy = inner if inner is not None and norm in attack.norms else attack
        o.refuse(f"{choosy.name} works in {', '.join(choosy.norms)}, not in {norm!r}.")
    o.make_threat(norm, radius)  # wrong values are told before the work
    arguments = _arguments(attack, keys, given, seed)
    config = {"attack": name, "norm": norm, "radius": radius, **arguments}
    if inner is not None:
        more = _arguments(inner, inner_keys, given, seed)
        arguments["attack"] = partial(inner.run, **more)
        config["runs"] = {"attack": inner.name, **more}
    sources = tuple(plain["source"].split("+")) if "source" in plain else ()
    if not all(sources):
        o.refuse(
            f"{where}: source: expected FILE or MODEL@FILE on both sides of each +, got {plain['source']!r}."
        )
    if sources:
        config["source"] = list(sources)
    bound = "" if radius == math.inf else f" {radius:g}"
    label = text if tail else f"{name} {o.symbol(norm)}{bound}"
    return NamedAttack(
        name, label, norm, attack.run, arguments, config, frozenset(shared), attack.minimal, float(radius),
        sources,
    )  # fmt: skip


def _find(name: str) -> Attack:
    if name not in registry():
        o.refuse(f"no attack {name!r}; there are {', '.join(registry())}.")
    return registry()[name]


def _inner(attack: Attack, plain: Mapping[str, str]) -> Attack | None:
    """Return the attack that `attack` runs, where the text names one that it can run."""
    if "attack" not in attack.parameters or "attack" not in plain:
        return None
    inner = _find(plain["attack"])
    if "attack" in inner.parameters:
        o.refuse(f"{attack.name} cannot run {inner.name}, which runs another attack.")
    if inner.minimal and "source" not in attack.parameters:
        o.refuse(
            f"{attack.name} cannot run {inner.name}, which already looks for the minimum: name that alone."
        )
    return inner


def _check_complete(attack: Attack, plain: Mapping[str, str]) -> None:
    """Refuse an attack that lacks an argument which has no default here."""
    examples = {"attack": "attack=bim,steps=10", "source": "source=FILE"}
    for key, parameter in attack.parameters.items():
        if not required(parameter) or key in (*GIVEN, *DEFAULTS) or plain.get(key):
            continue
        if key not in examples:
            o.refuse(f"{attack.name} needs {key}, which text cannot name; call it in Python.")
        whole = ",".join(text for part, text in examples.items() if part in attack.parameters)
        o.refuse(f"{attack.name} needs {key}, as in {attack.name}:{whole}.")


def _arguments(attack: Attack, keys: Iterable[str], given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    takes = attack.parameters
    open_ = {key: value for key, value in DEFAULTS.items() if key in takes and required(takes[key])}
    own = {key: value for key, value in given.items() if key in keys}
    return open_ | ({"seed": seed} if "seed" in takes else {}) | own


def required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty
