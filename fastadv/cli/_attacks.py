"""From text such as `pgd:steps=100` to an attack, and the list of attacks."""

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import typer

from fastadv.attacks import ATTACKS, Attack, AttackResult
from fastadv.cli._options import make_threat, pairs, symbol
from fastadv.cli._output import print_table, write_json

# what the command line sets where the function leaves it open
DEFAULTS = {"steps": 40, "queries": 1000}
GIVEN = ("model", "x", "y", "threat")
# no plain numbers or text
KINDS = {"budget": "budget", "minimum": "minimum norm"}
TITLE = """# Attacks

This page is written by `fastadv attack --markdown > docs/attacks.md`.

An attack with a budget returns the strongest point of a ball; one of minimum norm the nearest adversarial
example, and takes a threat of infinite radius. Knowledge is what it asks of the model: gradients, scores
(logits), decisions (the class), or nothing. Each is a function of `fastadv.attacks`.
"""
NOT_OPTIONS = (*GIVEN, "ids", "targets", "criterion", "mask", "attack", "source", "start")


def help_text(example: str) -> str:
    """The help of an option that names an attack."""
    return f"{', '.join(ATTACKS)}; or with arguments, {example}."


@dataclass(frozen=True)
class AttackOptions:
    """What the command line says for all attacks that take it; None where it says nothing."""

    norm: str | None = None
    radius: float | None = None
    steps: int | None = None
    step_size: float | None = None
    restarts: int | None = None
    stop_early: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that the command line gave."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class NamedAttack:
    """An attack as `evaluate` takes it: run(model, x, y, ids=ids).

    at(radius) is the same with another budget. `used` names the shared options that it takes, `radius` is inf
    for a minimum-norm attack without bound.
    """

    name: str
    label: str
    norm: str
    at: Callable[[float], Callable[..., AttackResult]]
    run: Callable[..., AttackResult]
    config: dict[str, Any]
    used: frozenset[str]
    minimal: bool
    radius: float


def parse_attacks(texts: list[str], options: AttackOptions, seed: int) -> dict[str, NamedAttack]:
    """The attacks that `texts` name, by their labels.

    Raises typer.BadParameter for text that cannot be understood, and for an option that none of the attacks
    takes.
    """
    named = [parse_attack(text, options, seed) for text in texts]
    by_label = {attack.label: attack for attack in named}
    if len(by_label) < len(named):
        raise typer.BadParameter(f"the same attack is named twice: {', '.join(texts)}.")
    for option in options.given:
        if not any(option in attack.used for attack in named):
            flag = "--strongest" if option == "stop_early" else f"--{option.replace('_', '-')}"
            raise typer.BadParameter(f"{flag} has no effect on {', '.join(texts)}; leave it out.")
    return by_label


def parse_attack(text: str, options: AttackOptions, seed: int) -> NamedAttack:
    """The attack that `text` names: NAME or NAME:key=value,key=value.

    The keys are arguments of its function, norm and radius. `options` hold where it takes them and `text`
    does not say otherwise.
    """
    name, _, tail = text.partition(":")
    if name not in ATTACKS:
        raise typer.BadParameter(f"no attack {name!r}; there are {', '.join(ATTACKS)}.")
    attack = ATTACKS[name]
    takes = attack.parameters
    missing = [key for key in NOT_OPTIONS if key in takes and _required(takes[key]) and key not in GIVEN]
    if missing:
        raise typer.BadParameter(
            f"{name} needs {missing[0]}, which text cannot name; call fastadv.attacks.{name} in Python."
        )
    own = pairs([part for part in tail.split(",") if part], f"attack {text!r}")
    known = ["norm", "radius", *(key for key in takes if key not in NOT_OPTIONS)]
    unknown = [key for key in own if key not in known]
    if unknown:
        raise typer.BadParameter(f"{name} takes no {unknown[0]!r}; it takes {', '.join(known)}.")
    for key, value in own.items():
        if key in takes and isinstance(takes[key].default, bool) and not isinstance(value, bool):
            raise typer.BadParameter(f"attack {text!r}: expected {key}=true or {key}=false, got {value!r}.")
    shared = {key: value for key, value in options.given.items() if key in known and key not in own}
    arguments = _defaults(attack, seed) | shared | own
    usual = "linf" if "linf" in attack.norms else attack.norms[0]
    norm = str(arguments.pop("norm", usual))
    radius = arguments.pop("radius", math.inf if attack.minimal else None)
    if radius is None or isinstance(radius, str | bool):
        raise typer.BadParameter(f"attack {text!r} has no radius; give --radius, or {name}:radius=0.3.")
    if norm not in attack.norms:
        raise typer.BadParameter(f"{name} works in {', '.join(attack.norms)}, not in {norm!r}.")

    def at(budget: float) -> Callable[..., AttackResult]:
        return partial(attack.run, threat=make_threat(norm, budget), **arguments)

    bound = "" if radius == math.inf else f" {radius:g}"
    label = text if tail else f"{name} {symbol(norm)}{bound}"
    config = {"attack": name, "norm": norm, "radius": radius, **arguments}
    return NamedAttack(
        name, label, norm, at, at(radius), config, frozenset(shared), attack.minimal, float(radius)
    )


def _defaults(attack: Attack, seed: int) -> dict[str, Any]:
    takes = attack.parameters
    open_ = {key: value for key, value in DEFAULTS.items() if key in takes and _required(takes[key])}
    return open_ | ({"seed": seed} if "seed" in takes else {})


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty


def list_attacks(context: typer.Context, asked: bool) -> None:
    """The callback of --list: print the attacks with what each supports, and leave."""
    if not asked:
        return
    if context.params.get("json"):
        write_json({name: _card(attack) for name, attack in ATTACKS.items()})
    else:
        print_table("attacks", _short_cells())
    raise typer.Exit


def print_markdown(asked: bool) -> None:
    """The callback of --markdown: print the attacks as the page `docs/attacks.md`, and leave."""
    if not asked:
        return
    sys.stdout.write(page())
    raise typer.Exit


def page() -> str:
    """The attacks as a page in Markdown."""
    head, *lines = cells()
    table = [head, ["---"] * len(head), *lines]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in table)
    return f"{TITLE}\n{rows}\n"


def cells() -> list[list[str]]:
    """The table of attacks as text, line by line, the head first."""
    head = ["attack", "norms", "kind", "knowledge", "targeted", "random", "paper", "what it does"]
    return [head, *(_line(name, attack) for name, attack in ATTACKS.items())]


def _line(name: str, attack: Attack) -> list[str]:
    norms = ", ".join(symbol(norm) for norm in attack.norms)
    targeted, random = ("yes" if each else "no" for each in (attack.targeted, attack.random))
    summary = _summary(attack).rstrip(".")
    return [name, norms, KINDS[attack.kind], attack.knowledge, targeted, random, attack.paper, summary]


def _short_cells() -> list[list[str]]:
    """The same for a screen. A summary names the paper."""
    lines = [["attack", "norms", "kind", "knowledge", "takes", "what it does"]]
    for name, norms, kind, knowledge, targeted, random, _, summary in cells()[1:]:
        taken = [word for word, said in (("targets", targeted), ("seed", random)) if said == "yes"]
        lines.append([name, norms, kind, knowledge, ", ".join(taken), summary])
    return lines


def _card(attack: Attack) -> dict[str, Any]:
    return {
        "norms": list(attack.norms),
        "kind": KINDS[attack.kind],
        "knowledge": attack.knowledge,
        "targeted": attack.targeted,
        "random": attack.random,
        "paper": attack.paper,
        "summary": _summary(attack),
        "arguments": [key for key in attack.parameters if key not in NOT_OPTIONS],
    }


def _summary(attack: Attack) -> str:
    """The first line of the page of the attack."""
    return (inspect.getdoc(inspect.getmodule(attack.run)) or "").partition("\n")[0]
