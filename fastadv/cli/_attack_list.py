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
from fastadv.evaluation.text import in_markdown

KINDS = {"budget": "budget", "minimum": "minimum norm"}
TITLE = """# Attacks

This page is written by `fastadv attack --markdown > docs/attacks.md`.

An attack with a budget returns the strongest point of a ball; one of minimum norm the nearest adversarial
example, and takes a threat of infinite radius. Knowledge is what it asks of the model: gradients, scores
(logits), decisions (the class), or nothing. Each is a function of `fastadv.attacks`.
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
    table = cells()
    return f"{TITLE}\n{in_markdown(table, names=len(table[0]))}\n"


def cells() -> list[list[str]]:
    """Return the table of attacks as text, line by line, the head first."""
    head = ["attack", "norms", "kind", "knowledge", "targeted", "random", "paper", "what it does"]
    return [head, *(_line(name, attack) for name, attack in registry().items())]


def _line(name: str, attack: Attack) -> list[str]:
    norms = ", ".join(symbol(norm) for norm in attack.norms)
    targeted, random = ("yes" if each else "no" for each in (attack.targeted, attack.random))
    summary = _summary(attack).rstrip(".")
    return [name, norms, KINDS[attack.kind], attack.knowledge, targeted, random, attack.paper, summary]


def _short_cells() -> list[list[str]]:
    """Return the same for a screen. A summary names the paper."""
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
        "needs": attack.needs,
        "summary": _summary(attack),
        "arguments": [key for key, parameter in attack.parameters.items() if nameable(parameter)],
    }


def _summary(attack: Attack) -> str:
    """Return the first line of the page of the attack."""
    return (inspect.getdoc(inspect.getmodule(attack.run)) or "").partition("\n")[0]
