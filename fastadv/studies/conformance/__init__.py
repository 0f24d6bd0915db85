"""Our attacks next to those of other packages, on small networks of five kinds: what runs, what is drawn."""

from collections.abc import Callable, Sequence
from os import PathLike

from torch import Tensor

import fastadv as fa
from fastadv.evaluation import Comparison, Conformance
from fastadv.evaluation.conformance import Subject
from fastadv.evaluation.figures import style
from fastadv.studies.conformance.nets import RADII, Quantized, Scaled, Waves, trained
from fastadv.text import percent
from fastadv.threat import THREATS

__all__ = ["RADII", "Quantized", "Scaled", "Waves", "cells", "draw", "problem", "run", "trained"]

SAMPLES = 150


def problem(samples: int = SAMPLES, seed: int = 0) -> tuple[dict[str, Subject], Tensor, Tensor]:
    """Train the networks, and load what they are attacked on."""
    test_set = fa.data.load("digits", "test", limit=samples)
    x, y, _ = next(iter(fa.data.batches(test_set, samples)))
    return {name: (model, RADII[name]) for name, model in trained(seed).items()}, x, y


def run(
    samples: int = SAMPLES,
    seed: int = 0,
    packages: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Conformance:
    """Train the networks, and compare attacks on the first test digits."""
    subjects, x, y = problem(samples, seed)
    return fa.evaluation.conformance(
        subjects, x, y, packages=packages, only=only, seed=seed, on_progress=on_progress
    )


def best(result: Conformance) -> list[Comparison]:
    """Return the comparison that is worst for ours, for each attack and network."""
    worst: dict[tuple[str, str, str], Comparison] = {}
    for one in result.comparisons:
        place = one.case, one.norm, one.net
        if place not in worst or one.p < worst[place].p:
            worst[place] = one
    return [worst[place] for place in sorted(worst)]


def cells(result: Conformance) -> list[list[str]]:
    """Make a table that fits a terminal: our attack and the rival that is worst for it, ours first.

    Way, median, passes, seconds and memory are in `Conformance.to_dict`.
    """
    lines = [["attack", "net", "rival", "broken, %", "ahead", "p"]]
    for one in best(result):
        broken = (percent(each.success, 0).removesuffix("%") for each in (one.ours, one.theirs))
        lines.append([
            f"{one.case} {THREATS[one.norm].symbol}", one.net, one.theirs.attack.split()[0],
            "/".join(broken), f"{len(one.only_ours)}/{len(one.only_theirs)}", f"{one.p:.2g}",
        ])  # fmt: skip
    return lines


def draw(result: Conformance, path: str | PathLike[str]) -> None:
    """Draw for each attack and network on how many samples one side is ahead, ours to the right."""
    lines = best(result)
    weaker = result.weaker
    height = 0.6 + 0.17 * len(lines)
    figure = style.new_figure(7.2, height, "Samples on which one side is ahead: theirs (left), ours (right)")
    axes = figure.add_axes((0.42, 0.2 / height, 0.55, (height - 0.7) / height))
    style.plain(axes)
    for place, one in enumerate(lines):
        axes.barh(place, len(one.only_ours), color=style.SKY, height=0.8)
        axes.barh(place, -len(one.only_theirs), color=style.VERMILION, height=0.8)
        if one in weaker:
            axes.text(-len(one.only_theirs), place, " weaker", va="center", ha="right", fontsize=7)
    names = [f"{one.case} {one.norm}, {one.net}: {one.theirs.attack}" for one in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=6)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    style.save(figure, path)
