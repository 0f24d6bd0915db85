"""`fastadv attack`: one attack on a model; with --markdown the page of all attacks."""

import inspect
import json as jsons
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import typer

from fastadv.attacks import Attack
from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, help_text, names_attacks, parse_attacks, registry
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results, watch
from fastadv.cli._output import finite, progress, say_where
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


def print_markdown(asked: bool) -> None:
    """Print the attacks as the page `docs/attacks.md`, and leave: the callback of --markdown."""
    if not asked:
        return
    sys.stdout.write(page())
    raise typer.Exit


def page() -> str:
    head = "attack, norms, kind, knowledge, targeted, random, default counts, paper, what it does"
    cells = [head.split(", ")]
    for name, attack in registry().items():
        norms = ", ".join(o.symbol(norm) for norm in attack.norms)
        targeted, random = ("yes" if each else "no" for each in (attack.targeted, attack.random))
        known = [name, norms, KINDS[attack.kind], attack.knowledge, targeted, random, _budget(attack)]
        # the first line of the attack's file
        summary = (inspect.getdoc(inspect.getmodule(attack.run)) or "").partition("\n")[0]
        cells.append([*known, attack.paper, summary.rstrip(".")])
    return f"{TITLE}\n{in_markdown(cells, names=len(cells[0]))}\n"


def _budget(attack: Attack) -> str:
    """Return the default counts of the attack; a number without a default must be given."""
    counts = {name: attack.parameters[name].default for name in COUNTS if attack.takes(name)}
    told = {name: "?" if value is inspect.Parameter.empty else f"{value:,}"
            for name, value in counts.items() if value is not None}  # fmt: skip
    return ", ".join(f"{value} {name}" for name, value in told.items())


class FirstImages(Images):
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
    markdown: bool = o.option(
        False,
        "Print what the attacks support, in Markdown.",
        "--markdown",
        callback=print_markdown,
    ),
) -> Iterator[Any]:
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
    yield result
    print_results(table, network.model, dataset)
    say_where({"adversarial examples": out})


def _write(path: Path, watched: Watched, row: Row, result: dict[str, Any]) -> None:
    tensors = {name: torch.cat([kept[name] for kept in watched.kept]) for name in watched.kept[0]}
    if row.components is not None:
        places = {name: place for place, name in enumerate(row.components.costs)}
        tensors["component"] = torch.tensor([places.get(name, -1) for name in watched.by])
    save_tensors(path, tensors, {"card": jsons.dumps(finite(result))})
