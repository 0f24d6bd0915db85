"""From text such as `pgd:steps=100` to an attack, and the list of attacks."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import typer

from fastadv.attacks import ATTACKS, Attack, AttackResult
from fastadv.cli._options import make_threat, pairs, symbol
from fastadv.cli._output import print_table, write_json

DEFAULT_STEPS = 40
NOT_OPTIONS = ("model", "x", "y", "threat", "ids", "targets")


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

    at(radius) is the same with another budget. `used` names the shared options that it takes.
    """

    name: str
    label: str
    norm: str
    at: Callable[[float], Callable[..., AttackResult]]
    run: Callable[..., AttackResult]
    config: dict[str, Any]
    used: frozenset[str]


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
    takes = inspect.signature(attack.run).parameters
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
    norm, radius = str(arguments.pop("norm", "linf")), arguments.pop("radius", None)
    if radius is None or isinstance(radius, str | bool):
        raise typer.BadParameter(f"attack {text!r} has no radius; give --radius, or {name}:radius=0.3.")
    if norm not in attack.norms:
        raise typer.BadParameter(f"{name} works in {', '.join(attack.norms)}, not in {norm!r}.")

    def at(budget: float) -> Callable[..., AttackResult]:
        return partial(attack.run, threat=make_threat(norm, budget), **arguments)

    label = text if tail else f"{name} {symbol(norm)} {radius:g}"
    config = {"attack": name, "norm": norm, "radius": radius, **arguments}
    return NamedAttack(name, label, norm, at, at(radius), config, frozenset(shared))


def _defaults(attack: Attack, seed: int) -> dict[str, Any]:
    takes = inspect.signature(attack.run).parameters
    found: dict[str, Any] = {"seed": seed} if "seed" in takes else {}
    if "steps" in takes and takes["steps"].default is inspect.Parameter.empty:
        found["steps"] = DEFAULT_STEPS
    return found


def list_attacks(context: typer.Context, asked: bool) -> None:
    """The callback of --list: print the attacks with what each supports, and leave."""
    if not asked:
        return
    cards = {name: _card(attack) for name, attack in ATTACKS.items()}
    if context.params.get("json"):
        write_json(cards)
    else:
        print_table(
            "attacks", [["attack", "norms", "kind", "targeted", "what it does"], *map(_line, cards.items())]
        )
    raise typer.Exit


def _card(attack: Attack) -> dict[str, Any]:
    takes = inspect.signature(attack.run).parameters
    summary = (inspect.getdoc(inspect.getmodule(attack.run)) or "").splitlines()[0]
    return {
        "norms": list(attack.norms),
        "kind": "minimum norm" if attack.minimal else "budget",
        "targeted": attack.targeted,
        "summary": summary,
        "arguments": [key for key in takes if key not in NOT_OPTIONS],
    }


def _line(entry: tuple[str, Mapping[str, Any]]) -> list[str]:
    name, card = entry
    norms = ", ".join(symbol(norm) for norm in card["norms"])
    return [name, norms, card["kind"], "yes" if card["targeted"] else "no", card["summary"]]
