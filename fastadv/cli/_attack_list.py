"""The list of attacks on the screen, as JSON, and as a page in Markdown."""

import inspect
import sys
from typing import Any

import typer

from fastadv.attacks import Attack
from fastadv.cli._attacks import registry
from fastadv.cli._options import symbol
from fastadv.cli._output import print_table, write_json
from fastadv.cli._values import nameable
from fastadv.text import in_markdown

COUNTS = ("steps", "queries", "levels", "repetitions", "searches")
KINDS = {"budget": "budget", "minimum": "minimum norm"}
TITLE = """# Attacks

This page is written by `fastadv attack --markdown > docs/attacks.md`.

Each attack is a function of `fastadv.attacks`. An attack with a budget returns the strongest point of a ball.
A minimum-norm attack returns the nearest adversarial example; give it a threat of infinite radius. Knowledge
is what the attack asks of the model: gradients, scores (logits), decisions (the class), or nothing. Default
counts are those of the paper, unless the help of the attack says otherwise; `?` marks a count that you must
give. [Beyond the papers](departures.md) lists where an attack differs from its paper.
"""


def list_attacks(context: typer.Context, asked: bool) -> None:
    """Print the attacks with what each supports, and leave: the callback of --list."""
    if not asked:
        return
    if context.params.get("json"):
        write_json({name: _card(attack) for name, attack in registry().items()})
    else:
        print_table("attacks", _short_cells())
    raise typer.Exit


def print_markdown(asked: bool) -> None:
    """Print the attacks as the page `docs/attacks.md`, and leave: the callback of --markdown."""
    if not asked:
        return
    sys.stdout.write(page())
    raise typer.Exit


def page() -> str:
    """Return the attacks as a page in Markdown."""
    cells = [["attack", "norms", "kind", "knowledge", "targeted", "random", "default counts", "paper",
              "what it does"]]  # fmt: skip
    for name, attack in registry().items():
        targeted, random = ("yes" if each else "no" for each in (attack.targeted, attack.random))
        known = [*_known(name, attack), targeted, random, _budget(attack), attack.paper]
        cells.append([*known, _summary(attack).rstrip(".")])
    return f"{TITLE}\n{in_markdown(cells, names=len(cells[0]))}\n"


def _budget(attack: Attack) -> str:
    """Return the default counts of the attack; a number without a default must be given."""
    counts = {name: attack.parameters[name].default for name in COUNTS if attack.takes(name)}
    told = {name: "?" if value is inspect.Parameter.empty else f"{value:,}"
            for name, value in counts.items() if value is not None}  # fmt: skip
    return ", ".join(f"{value} {name}" for name, value in told.items())


def _short_cells() -> list[list[str]]:
    """Return the same for a screen. A summary names the paper."""
    lines = [["attack", "norms", "kind", "knowledge", "takes", "what it does"]]
    for name, attack in registry().items():
        taken = [word for word, takes in (("targets", attack.targeted), ("seed", attack.random)) if takes]
        lines.append([*_known(name, attack), ", ".join(taken), _summary(attack).rstrip(".")])
    return lines


def _known(name: str, attack: Attack) -> list[str]:
    return [name, ", ".join(symbol(norm) for norm in attack.norms), KINDS[attack.kind], attack.knowledge]


def _card(attack: Attack) -> dict[str, Any]:
    told = {name: getattr(attack, name) for name in ("knowledge", "targeted", "random", "paper", "needs")}
    arguments = [key for key, parameter in attack.parameters.items() if nameable(parameter)]
    defaults = {key: attack.parameters[key].default for key in arguments}
    defaults = {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty}
    summary = {"summary": _summary(attack), "arguments": arguments, "defaults": defaults}
    return {"norms": list(attack.norms), "kind": KINDS[attack.kind], **told, **summary}


def _summary(attack: Attack) -> str:
    """Return the first line of the page of the attack."""
    return (inspect.getdoc(inspect.getmodule(attack.run)) or "").partition("\n")[0]
