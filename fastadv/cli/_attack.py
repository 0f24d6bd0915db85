"""`fastadv attack`: one attack on a model; with --list all attacks, on the screen, as JSON or as a page."""

import inspect
import json as jsons
import sys
from pathlib import Path
from typing import Any

import torch
import typer

from fastadv.attacks import Attack
from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, help_text, names_attacks, parse_attacks, registry
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results, watch
from fastadv.cli._output import finite, print_table, progress, say_where, write_json
from fastadv.cli._shared import Attacked, Images, Search
from fastadv.evaluation import Row, evaluate
from fastadv.runs.card import card
from fastadv.runs.files import save_tensors
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
    return [name, ", ".join(o.symbol(norm) for norm in attack.norms), KINDS[attack.kind], attack.knowledge]


def _card(attack: Attack) -> dict[str, Any]:
    told = {name: getattr(attack, name) for name in ("knowledge", "targeted", "random", "paper", "needs")}
    arguments = [key for key, parameter in attack.parameters.items() if o.nameable(parameter)]
    defaults = {key: attack.parameters[key].default for key in arguments}
    defaults = {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty}
    summary = {"summary": _summary(attack), "arguments": arguments, "defaults": defaults}
    return {"norms": list(attack.norms), "kind": KINDS[attack.kind], **told, **summary}


def _summary(attack: Attack) -> str:
    """Return the first line of the page of the attack."""
    return (inspect.getdoc(inspect.getmodule(attack.run)) or "").partition("\n")[0]


class FirstImages(Images):
    """The first images, unless all are asked for."""

    samples: o.Samples = 1000


@names_attacks
def attack(
    network: Attacked,
    images: FirstImages,
    options: AttackOptions,
    machine: Search,
    attack: str = o.option("pgd", help_text("pgd:steps=100"), "--attack", "-a"),
    out: Path | None = o.written(
        None,
        "Write x, x_adv, y, ids, success, status, distance, loss and zero_gradient of the samples "
        "with finite logits here, for autoattack also which component broke each sample, -1 for none "
        "(safetensors).",
    ),
    json: o.Json = False,
    known: bool = o.option(
        False, "List the attacks, and what each supports.", "--list", callback=list_attacks
    ),
    markdown: bool = o.option(
        False, "The same as a page in Markdown.", "--markdown", callback=print_markdown
    ),
) -> None:
    """Attack a model, and report which samples were broken and at which distance.

    A minimum-norm attack needs no --radius; it limits which successes count.
    """
    (named,) = parse_attacks([attack], options, machine.seed).values()
    searched, place = machine.searched, machine.place()
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = machine.twin(network.load(dataset, place, machine.seed))
        named = named.with_sources(lambda text: network.substitute(text, dataset, place, machine.seed))
        with progress(named.label) as tick:
            watched = watch({named.label: named}, len(dataset), tick, keep=out is not None)
            table = evaluate(net, dataset, watched, batch_size=machine.batch_size)
        told = {"data": dataset.describe(), "batch_size": machine.batch_size, "precision": searched}
        result = card("attack", {**network.config, **named.config, **told}, **table.to_dict())
        if out is not None:
            _write(out, watched[named.label], table.rows[0], result)
    if json:
        write_json(result)
        return
    print_results(table, network.model, dataset)
    say_where({"adversarial examples": out})


def _write(path: Path, watched: Watched, row: Row, result: dict[str, Any]) -> None:
    tensors = {name: torch.cat([kept[name] for kept in watched.kept]) for name in watched.kept[0]}
    if row.components is not None:
        places = {name: place for place, name in enumerate(row.components.costs)}
        tensors["component"] = torch.tensor([places.get(name, -1) for name in watched.by])
    save_tensors(path, tensors, {"card": jsons.dumps(finite(result))})
