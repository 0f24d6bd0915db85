"""PGD against the same attack of other libraries, on four nets: time, memory and final accuracy.

The passes alone, a search's forwards and input gradients with one verdict before and one after, are what the
attack would take without work of its own: the ceiling.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import fastadv as fa
from bench import memory, pgd
from bench.peers import PEERS, Call, version_of
from bench.pgd import Problem
from bench.problems import NAMES, problem, what
from bench.providers import EARLY, NO_MEMORY, providers
from bench.timing import quantiles, ratio, times

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


def found(given: Problem, x_adv: Tensor) -> dict[str, float]:
    """What is left of the accuracy, and how far the images went at most."""
    right = pgd.classes(given.model, x_adv) == given.y
    return {
        "accuracy": round(float(right.float().mean()), 4),
        "distance": round(float((x_adv - given.x).abs().max()), 5),
    }


def rows(
    data_dir: Path | None, weights: Path | None, device: torch.device, seconds: float
) -> Iterator[dict[str, Any]]:
    """One row for each provider on each net, and for the passes alone."""
    for name in NAMES:
        given = problem(name, data_dir, weights, device)
        ways = providers(given)
        peaks = {
            way: memory.of_provider(name, way, data_dir, weights) for way in ways if way not in NO_MEMORY
        }
        yield from measured(given, ways, seconds, peaks)


def measured(
    given: Problem, ways: dict[str, Call], seconds: float, peaks: dict[str, dict[str, float]]
) -> Iterator[dict[str, Any]]:
    """The rows of one net, with the peaks of memory that are known."""
    twins = {precision: fa.freeze(given.model, precision) for precision in PRECISIONS}
    alone = {
        f"passes alone, {precision}": partial(pgd.passes, given, twin) for precision, twin in twins.items()
    }
    taken = times({**ways, **alone}, seconds, least=3)
    base = "torchattacks" if "torchattacks" in taken else "plain loop"
    for provider, values in taken.items():
        row: dict[str, Any] = {"what": what(given), "provider": provider, **quantiles(values)}
        if provider in ways:
            row |= found(given, ways[provider]()) | peaks.get(provider, {})
            if provider != EARLY:
                passes = taken[f"passes alone, {'bf16' if 'bf16' in provider else 'fp32'}"]
                row["share_of_ceiling"] = round(ratio(passes, values), 3)
        if provider in PEERS:
            row["version"] = version_of(provider)
        measure = "times_torchattacks" if base == "torchattacks" else "times_plain"
        yield row | {measure: round(ratio(taken[base], values), 2)}
