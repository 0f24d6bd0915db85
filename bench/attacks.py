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
from bench.providers import EARLY, FROZEN, NO_MEMORY, providers
from bench.timing import quantiles, ratio, times

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
ALONE = tuple(f"passes alone, {precision}" for precision in PRECISIONS)
BASES = ("torchattacks", "plain loop")  # by which the others are measured, the first that is installed
CLOSE = (*BASES, "fastadv fp32", "fastadv bf16", EARLY, *FROZEN)


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
    # other libraries' code and threads slow down all that comes after in a process
    for last in (False, True):
        for name in NAMES:
            given = problem(name, data_dir, weights, device)
            every = providers(given)
            chosen = [way for way in every if (way in CLOSE) is not last]
            if not chosen:
                continue
            peaks = {
                way: memory.of_provider(name, way, data_dir, weights)
                for way in chosen
                if way not in NO_MEMORY
            }
            ways = {way: call for way, call in every.items() if way in chosen or way in BASES}
            told = chosen if last else (*chosen, *ALONE)
            yield from (row for row in measured(given, ways, seconds, peaks) if row["provider"] in told)


def measured(
    given: Problem, ways: dict[str, Call], seconds: float, peaks: dict[str, dict[str, float]]
) -> Iterator[dict[str, Any]]:
    """The rows of one net, with the peaks of memory that are known."""
    twins = {precision: fa.freeze(given.model, precision) for precision in PRECISIONS}
    alone = {name: partial(pgd.passes, given, twin) for name, twin in zip(ALONE, twins.values(), strict=True)}
    taken = times({**ways, **alone}, seconds, least=3)
    base = next(name for name in BASES if name in taken)
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
