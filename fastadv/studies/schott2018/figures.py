"""The figures of the study: accuracy against distance, the smallest adversarials, and what models imagine."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

import fastadv as fa
from fastadv.studies.schott2018.plan import SYNTHESES
from fastadv.studies.schott2018.published import THRESHOLDS, TITLES, published
from fastadv.studies.schott2018.summary import Smallest
from fastadv.threat import THREATS

RIGHT = {"l2": 5.0, "linf": 0.55, "l0": 60.0}
Line = tuple[Sequence[float], Sequence[float]]
"""Distances, and the accuracy at each."""


def curve(distance: Tensor) -> Line:
    """Compute the share of images that no perturbation up to each distance breaks."""
    ordered = distance.double().sort().values
    finite = ordered[ordered.isfinite()]
    across, up, left = [0.0], [float((distance > 0).double().mean())], len(distance)
    start = len(distance) - int((distance > 0).sum())
    for place, value in enumerate(finite[start:].tolist(), start=start + 1):
        across += [value, value]
        up += [up[-1], (left - place) / left]
    return [*across, math.inf], [*up, up[-1]]


def against_published(found: Mapping[tuple[str, str], Smallest], path: Path) -> bool:
    """Draw accuracy under the paper's attacks beside the published curves. Returns whether there is any."""
    lines = {key: curve(each.paper.distance) for key, each in found.items() if each.paper is not None}
    known = {key: (published()[key].distance, published()[key].accuracy) for key in lines}
    title = "Accuracy under the attacks of the paper"
    return _panels(lines, known, path, title=title, drawn="here", reference="published")


def against_bounds(
    found: Mapping[tuple[str, str], Smallest], radii: Mapping[tuple[str, str], Tensor], path: Path
) -> bool:
    """Draw accuracy under all attacks beside what ABS guarantees. Returns whether there is any."""
    lines = {key: curve(each.all.distance) for key, each in found.items()}
    known = {key: curve(radii[key]) for key in lines if key in radii and key[1] in SYNTHESES}
    title = "Accuracy under all attacks, and what ABS guarantees"
    return _panels(lines, known, path, title=title, drawn="attacks", reference="lower bound")


def _panels(
    lines: Mapping[tuple[str, str], Line], known: Mapping[tuple[str, str], Line], path: Path, **told: str
) -> bool:
    parts = [
        fa.figures.Panel(
            f"{THREATS[norm].symbol} distance", RIGHT[norm], _of_norm(lines, norm), _of_norm(known, norm),
            THRESHOLDS[norm],
        )
        for norm in dict.fromkeys(norm for norm, _ in lines)
    ]  # fmt: skip
    if parts:
        fa.figures.panels(parts, path, **told)
    return bool(parts)


def _of_norm(lines: Mapping[tuple[str, str], Line], norm: str) -> dict[str, Line]:
    """Cut lines where they cannot be seen: matplotlib cannot draw infinite distances."""
    return {
        TITLES[model]: ([min(value, 2 * RIGHT[norm]) for value in distances], accuracy)
        for (own, model), (distances, accuracy) in lines.items()
        if own == norm
    }


def gallery(rows: Sequence[fa.figures.Strip], norm: str, path: Path) -> None:
    """Draw the smallest adversarials of each model."""
    fa.figures.strips(
        rows, path, title=f"The smallest {THREATS[norm].symbol} perturbations found",
        subtitle="below each image the class that the model sees, and the distance to the clean one",
    )  # fmt: skip


def imagined(rows: Sequence[fa.figures.Strip], path: Path) -> None:
    """Draw what latent descent found, and the images that were made of noise."""
    fa.figures.strips(
        rows, path, title="Latent descent and distal images",
        subtitle="the class that the model sees and the distance; below, uniform noise raised to a "
        "confidence of 90% in each class, with the confidence that was reached",
    )  # fmt: skip
