"""`fastadv attack`: one attack on a model."""

import inspect
import json as jsons
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, wraps
from typing import Annotated, Any

import torch
from torch import Tensor

from fastadv.cli import _options as o
from fastadv.cli._attacks import ATTACK, CRITERION, Criterion, parse_attacks
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT, print_results
from fastadv.cli._output import finite, progress, say_where
from fastadv.cli._shared import IMAGES, Budget, Machine, Network, Search
from fastadv.evaluation import evaluate
from fastadv.runs.card import card
from fastadv.runs.files import save_tensors

OUT = (
    "Write x, x_adv, y, ids, success, status, distance, loss and zero_gradient of the samples with finite "
    "logits here, for autoattack also which component broke each sample, -1 for none (safetensors)."
)
KEPT = ("success", "status", "distance", "loss", "zero_gradient")


def attack(
    model: Network,
    images: Annotated[partial[Any], replace(IMAGES, defaults={"samples": 1000})],
    budget: Budget,
    search: Search,
    machine: Machine,
    attack: Annotated[str, ATTACK] = "pgd",
    criterion: Annotated[Criterion | None, CRITERION] = None,
    out: Annotated[o.Written | None, OUT] = None,
) -> Iterator[Any]:
    """Attack a model, and report which samples were broken and at which distance.

    A minimum-norm attack needs no --radius; it limits which successes count.

    {naming}
    """
    (named,) = parse_attacks([attack], budget, machine.seed, criterion).values()
    place, batch_size = machine.place(), search.batch_size
    with interruptible(NOTHING_KEPT):
        dataset = images()
        net = search.frozen(model.load(dataset, place, machine.seed))
        run, kept = named.run, list[dict[str, Tensor]]()
        with progress(named.label) as tick:
            run = run if out is None else _keeping(run, kept)
            table = evaluate(net, dataset, {named.label: run}, batch_size=batch_size, progress=tick)
        rest = {"data": dataset.describe(), "batch_size": batch_size, "precision": search.precision or "fp32"}
        result = card("attack", {**model.config, **named.config, **rest}, **table.to_dict())
        if out is not None:
            tensors = {name: torch.cat([part[name] for part in kept]) for name in kept[0]}
            if (components := table.rows[0].components) is not None:
                tensors["component"] = components.by[~table.failed]
            save_tensors(out, tensors, {"card": jsons.dumps(finite(result))})
    yield result
    print_results(table, model.model, dataset)
    say_where({"adversarial examples": out})


def _keeping(run: Callable[..., Any], kept: list[dict[str, Tensor]]) -> Callable[..., Any]:
    """Return the attack, which adds the samples and results of each batch to `kept`."""

    @wraps(run)
    def attack(model: Any, x: Tensor, y: Tensor, *, ids: Tensor, **options: Any) -> Any:
        result = run(model, x, y, ids=ids, **options)
        parts = {"x": x, "x_adv": result.x_adv, "y": y, "ids": ids}
        parts |= {name: getattr(result, name) for name in KEPT}
        kept.append({name: part.cpu() for name, part in parts.items()})
        return result

    attack.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    return attack
