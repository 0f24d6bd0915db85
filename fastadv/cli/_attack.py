"""`fastadv attack`: one attack on a model."""

import json as jsons
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, help_text, names_attacks, parse_attacks
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results, watch
from fastadv.cli._output import finite, progress, say_where
from fastadv.cli._shared import Images, Network, Search
from fastadv.evaluation import Row, evaluate
from fastadv.runs.card import card
from fastadv.runs.files import save_tensors


class FirstImages(Images):
    samples: o.Samples = 1000


@names_attacks
def attack(
    network: Network,
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
) -> Iterator[Any]:
    """Attack a model, and report which samples were broken and at which distance.

    A minimum-norm attack needs no --radius; it limits which successes count.
    """
    (named,) = parse_attacks([attack], options, machine.seed).values()
    searched, place = machine.searched, machine.place()
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = machine.frozen(network.load(dataset, place, machine.seed))
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
