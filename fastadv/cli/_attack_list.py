"""The list of attacks on the screen, as JSON, and as a page in Markdown."""

import inspect
import sys
from dataclasses import asdict
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
give.
"""
BEYOND = """
## Beyond the papers

This section lists what differs from each paper, why, and the gain at equal passes over the best other
implementation. [Parity](parity.md) describes the networks and has the rows that are named. An attack with a
`variant` also runs as published: `variant="published"`. All attacks return the strongest point of the search,
not the last one. Each sample has its own random numbers. A norm that the paper does not have uses its own
steepest direction.
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
              "fidelity", "what it does"]]  # fmt: skip
    for name, attack in registry().items():
        targeted, random = ("yes" if each else "no" for each in (attack.targeted, attack.random))
        fidelity = f"[{_fidelity(attack)}](#{name})" if attack.fidelity else _fidelity(attack)
        known = [*_known(name, attack), targeted, random, _budget(attack), attack.paper, fidelity]
        cells.append([*known, _summary(attack).rstrip(".")])
    beyond = "\n".join(_beyond(name, attack) for name, attack in registry().items() if attack.fidelity)
    return f"{TITLE}\n{in_markdown(cells, names=len(cells[0]))}\n{BEYOND}\n{beyond}"


def _beyond(name: str, attack: Attack) -> str:
    """Return the departures of an attack, as a list below its name."""
    lines = [f"### {name}\n"]
    if attack.takes("variant"):
        lines.append(f"`variant` is {attack.parameters['variant'].default!r} by default.\n")
    for each in attack.fidelity:
        gains = f" Gain: {each.gains}." if each.gains else ""
        lines.append(f"- {each.differs}: {each.why}.{gains}{f' Row: {each.row}.' if each.row else ''}")
    return "\n".join([*lines, ""])


def _fidelity(attack: Attack) -> str:
    """Return whether the attack is that of its paper, in two words."""
    count = len(attack.fidelity)
    return f"{count} departure{'s' * (count > 1)}" if count else "published"


def _budget(attack: Attack) -> str:
    """Return the default counts of the attack; a number without a default must be given."""
    counts = {name: attack.parameters[name].default for name in COUNTS if attack.takes(name)}
    told = {name: "?" if value is inspect.Parameter.empty else f"{value:,}"
            for name, value in counts.items() if value is not None}  # fmt: skip
    return ", ".join(f"{value} {name}" for name, value in told.items())


def _short_cells() -> list[list[str]]:
    """Return the same for a screen. A summary names the paper."""
    lines = [["attack", "norms", "kind", "knowledge", "takes", "fidelity", "what it does"]]
    for name, attack in registry().items():
        taken = [word for word, takes in (("targets", attack.targeted), ("seed", attack.random)) if takes]
        departs = "departs" if attack.fidelity else "published"
        lines.append([*_known(name, attack), ", ".join(taken), departs, _summary(attack).rstrip(".")])
    return lines


def _known(name: str, attack: Attack) -> list[str]:
    return [name, ", ".join(symbol(norm) for norm in attack.norms), KINDS[attack.kind], attack.knowledge]


def _card(attack: Attack) -> dict[str, Any]:
    told = {name: getattr(attack, name) for name in ("knowledge", "targeted", "random", "paper", "needs")}
    arguments = [key for key, parameter in attack.parameters.items() if nameable(parameter)]
    defaults = {key: attack.parameters[key].default for key in arguments}
    defaults = {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty}
    summary = {"summary": _summary(attack), "arguments": arguments, "defaults": defaults}
    fidelity = [asdict(each) for each in attack.fidelity]
    return {"norms": list(attack.norms), "kind": KINDS[attack.kind], **told, "fidelity": fidelity, **summary}


def _summary(attack: Attack) -> str:
    """Return the first line of the page of the attack."""
    return (inspect.getdoc(inspect.getmodule(attack.run)) or "").partition("\n")[0]
