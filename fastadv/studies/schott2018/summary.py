"""The figures of the study: medians and accuracies over the smallest perturbation found for each image."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastadv.studies.schott2018.plan import Cell, Settings
from fastadv.studies.schott2018.published import THRESHOLDS, published
from fastadv.studies.schott2018.work import Done
from fastadv.threat import THREATS

Key = tuple[str, str]
"""A norm and a model."""
Z = 1.96  # of a 95% interval
ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Least:
    """The smallest perturbation of each image over several attacks.

    distance [N], x_adv [N, ...], and `by`, the name of the attack that found it (empty where none did).
    """

    distance: Tensor
    x_adv: Tensor
    by: list[str]


def least(outcomes: Mapping[Cell, Done], model: str, norm: str, *, today: bool = True) -> Least | None:
    """Find the smallest perturbations under the paper's attacks on a model in a norm; None without any.

    today: under all attacks on the model, whatever norm they were made for.
    """
    cells = [cell for cell in outcomes if cell.model == model]
    if not any(cell.method.norm == norm for cell in cells):
        return None
    if not today:
        cells = [cell for cell in cells if cell.method.norm == norm and not cell.method.today]
    if not cells:
        return None
    found = [outcomes[cell].tensors for cell in cells]
    distance, which = torch.stack([part[norm] for part in found]).min(0)
    x_adv = torch.stack([part["x_adv"] for part in found])[which, torch.arange(len(distance))]
    names = [
        cell.method.name + ("" if cell.method.norm == norm else f" ({THREATS[cell.method.norm].symbol})")
        for cell in cells
    ]
    broken = (distance > 0) & (distance < math.inf)
    by = [names[k] if hit else "" for k, hit in zip(which.tolist(), broken.tolist(), strict=True)]
    return Least(distance, x_adv, by)


class Smallest(NamedTuple):
    """The smallest perturbations under the paper's attacks, None without any, and under all."""

    paper: Least | None
    all: Least


def smallest(outcomes: Mapping[Cell, Done], settings: Settings) -> dict[Key, Smallest]:
    """Find the smallest perturbations by (norm, model), where there are attacks in the norm."""
    pairs = [(norm, model) for norm in settings.norms for model in settings.models]
    found = {(n, m): [least(outcomes, m, n, today=today) for today in (False, True)] for n, m in pairs}
    return {key: Smallest(paper, all) for key, (paper, all) in found.items() if all is not None}


def median(distance: Tensor) -> float:
    """Return the median, where 0 counts for images that were wrong already, infinity for unbroken ones."""
    return float(np.median(distance.numpy()))


def median_interval(distance: Tensor) -> tuple[float, float]:
    """Return the 95% interval of the median, by order statistics."""
    ordered, n = distance.sort().values, len(distance)
    low, high = n / 2 - Z / 2 * math.sqrt(n), n / 2 + Z / 2 * math.sqrt(n)
    return float(ordered[max(0, math.floor(low))]), float(ordered[min(n - 1, math.ceil(high))])


def accuracy(distance: Tensor, threshold: float) -> float:
    """Return the share of images that no perturbation up to the threshold breaks."""
    return float((distance > threshold).double().mean())


def accuracy_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n images."""
    center, spread = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return (center - spread) / scale, (center + spread) / scale


def of_cell(cell: Cell, done: Done) -> dict[str, Any]:
    """Return the figures of one attack on one model, as JSON."""
    distance = done.tensors[cell.method.norm]
    return {
        "model": cell.model,
        "norm": cell.method.norm,
        "attack": cell.method.name,
        "today": cell.method.today,
        "arguments": cell.describe(),
        "median": finite(median(distance)),
        "accuracy": accuracy(distance, THRESHOLDS[cell.method.norm]),
        "held": float((distance == math.inf).double().mean()),
        "seconds": done.seconds,
        "forwards": done.forwards,
        "backwards": done.backwards,
    }


def of_model(norm: str, model: str, found: Smallest) -> dict[str, Any]:
    """Return the figures of a model under the paper's attacks and under all, beside the published ones."""
    known = published()[norm, model]
    return {
        "model": model,
        "norm": norm,
        "published": {"median": known.median, "accuracy": known.at_threshold},
        "paper": None if found.paper is None else _figures(found.paper, norm),
        "all": _figures(found.all, norm),
    }


def of_bound(norm: str, model: str, done: Done, found: Smallest | None) -> dict[str, Any]:
    """Return the figures of the lower bound, as JSON; `broken` counts adversarials found within it."""
    radius = done.tensors["radius"].double()
    distance = torch.zeros(0) if found is None else found.all.distance.double()
    inside = (distance > 0) & (distance < radius[: len(distance)] * (1 - ROUNDING))
    return {
        "model": model,
        "norm": norm,
        "mean": float(radius.mean()),
        "median": median(radius),
        "standard_error": float(radius.std()) / len(radius) ** 0.5 if len(radius) > 1 else 0.0,
        "broken": int(inside.sum()),
        "seconds": done.seconds,
    }


def _figures(found: Least, norm: str) -> dict[str, Any]:
    distance = found.distance
    share = accuracy(distance, THRESHOLDS[norm])
    return {
        "median": finite(median(distance)),
        "median_interval": [finite(value) for value in median_interval(distance)],
        "accuracy": share,
        "accuracy_interval": list(accuracy_interval(share, len(distance))),
        "by": dict(Counter(name for name in sorted(found.by) if name).most_common()),
        "distances": [finite(value) for value in distance.tolist()],
    }


def finite(value: float) -> float | None:
    """Return the number, or None for infinity, which JSON lacks."""
    return value if math.isfinite(value) else None
