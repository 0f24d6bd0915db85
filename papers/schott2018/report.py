"""The study in numbers and words: the smallest perturbation found for each image, and tables."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastadv.threat import THREATS
from papers.schott2018.plan import SOURCE, THRESHOLDS, TITLES, Cell, Settings, published
from papers.schott2018.work import Done
from papers.text import finite, in_markdown, number
from papers.text import percent as to_percent

Key = tuple[str, str]  # a norm and a model
Z = 1.96  # of a 95% interval
ROUNDING = 1e-5
percent = partial(to_percent, digits=0)


@dataclass(frozen=True, eq=False)
class Least:
    distance: Tensor
    x_adv: Tensor
    by: list[str]


def least(outcomes: Mapping[Cell, Done], model: str, norm: str, *, today: bool = True) -> Least | None:
    """Find the smallest perturbations under the paper's attacks on a model in a norm; None without any."""
    cells = [cell for cell in outcomes if cell.model == model]
    own = [cell for cell in cells if cell.method.norm == norm and (today or not cell.method.today)]
    if not own:
        return None
    cells = cells if today else own
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
    pairs = [(norm, model) for norm in settings.norms for model in settings.models]
    found = {(n, m): [least(outcomes, m, n, today=today) for today in (False, True)] for n, m in pairs}
    return {key: Smallest(paper, all) for key, (paper, all) in found.items() if all is not None}


def median_interval(distance: Tensor) -> tuple[float, float]:
    """Return the 95% interval of the median, by order statistics."""
    ordered, n = distance.sort().values, len(distance)
    low, high = n / 2 - Z / 2 * math.sqrt(n), n / 2 + Z / 2 * math.sqrt(n)
    return float(ordered[max(0, math.floor(low))]), float(ordered[min(n - 1, math.ceil(high))])


def accuracy(distance: Tensor, threshold: float) -> float:
    return float((distance > threshold).double().mean())


def accuracy_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n images."""
    center, spread = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return (center - spread) / scale, (center + spread) / scale


def of_cell(cell: Cell, done: Done) -> dict[str, Any]:
    distance = done.tensors[cell.method.norm]
    return {
        "model": cell.model,
        "norm": cell.method.norm,
        "attack": cell.method.name,
        "arguments": cell.describe(),
        "median": finite(float(np.median(distance.numpy()))),
        "accuracy": accuracy(distance, THRESHOLDS[cell.method.norm]),
        "seconds": done.seconds,
    }


def of_model(norm: str, model: str, found: Smallest) -> dict[str, Any]:
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
        "broken": int(inside.sum()),
        "seconds": done.seconds,
    }


def _figures(found: Least, norm: str) -> dict[str, Any]:
    distance = found.distance
    share = accuracy(distance, THRESHOLDS[norm])
    return {
        "median": finite(float(np.median(distance.numpy()))),
        "median_interval": [finite(value) for value in median_interval(distance)],
        "accuracy": share,
        "accuracy_interval": list(accuracy_interval(share, len(distance))),
        "by": dict(Counter(name for name in sorted(found.by) if name).most_common()),
        "distances": [finite(value) for value in distance.tolist()],
    }


Cells = list[list[str]]


def overview(measured: dict[str, Any]) -> Cells:
    """Return each model in each norm: under the paper's attacks, as published, and under all attacks."""
    bounds = {(line["norm"], line["model"]): line["mean"] for line in measured["bounds"]}
    under = ["median", "paper", "accuracy", "paper", "median,\nall", "accuracy,\nall"]
    cells = [["norm", "model", *under, "bound"]]
    for line in measured["least"]:
        norm, model, found = line["norm"], line["model"], line["all"]
        under_all = [distance(found["median"]), percent(found["accuracy"])]
        names = [f"{THREATS[norm].symbol} {THRESHOLDS[norm]:g}", TITLES[model]]
        bound = number(bounds.get((norm, model)))
        cells.append([*names, *_beside(line["paper"], line["published"]), *under_all, bound])
    return cells


def _beside(here: dict[str, Any] | None, known: dict[str, float]) -> list[str]:
    """Median and accuracy with the published ones, starred where those lie outside the 95% interval."""
    if here is None:
        return ["-", number(known["median"]), "-", percent(known["accuracy"])]
    texts = []
    for what, text in (("median", distance), ("accuracy", percent)):
        low, high = (math.inf if end is None else end for end in here[f"{what}_interval"])
        inside = low <= known[what] <= high
        texts += [text(here[what]), text(known[what]) + ("" if inside else "*")]
    return texts


def attacks(measured: dict[str, Any], norm: str) -> Cells:
    """Return each attack on each model in a norm: median and accuracy, as in table 1 of the paper."""
    lines = [line for line in measured["cells"] if line["norm"] == norm]
    models = [model for model in TITLES if any(line["model"] == model for line in lines)]
    rows: Cells = [["attack", *(TITLES[model] for model in models)]]
    for attack in dict.fromkeys(line["attack"] for line in lines):
        found = {line["model"]: line for line in lines if line["attack"] == attack}
        rows.append([attack, *(_both(found.get(model)) for model in models)])
    names = {"the paper's attacks": "paper", "all": "all", "published, all": "published"}
    for name, which in names.items():
        least = {line["model"]: line[which] for line in measured["least"] if line["norm"] == norm}
        rows.append([name, *(_both(least.get(model)) for model in models)])
    return rows


def _both(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{distance(found['median'])} / {percent(found['accuracy'])}"


def notes(measured: dict[str, Any]) -> list[str]:
    lines = [
        "median: of the distance to the smallest perturbation found, 0 for images that were wrong already; "
        "accuracy: the share of images that nothing up to the threshold breaks",
        f"paper: {SOURCE}; * outside the 95% interval of the images here",
        "median, accuracy: under the paper's attacks for the norm; all: under these and today's, for "
        "any norm; bound: the mean radius within which ABS keeps its decision, in its tight form",
    ]
    for line in measured["bounds"]:
        if line["broken"]:
            place = f"{TITLES[line['model']]}, {THREATS[line['norm']].symbol}"
            lines.append(f"{place}: {line['broken']} bounds do not hold: an adversarial lies within them")
    return lines


def markdown(result: dict[str, Any]) -> str:
    measured, config = result["measured"], result["config"]
    parts = [
        f"# Schott et al. 2018 on {config['samples']} test images of MNIST, seed {config['seed']}",
        in_markdown(overview(measured), names=2),
        "\n".join(f"- {note}" for note in notes(measured)),
    ]
    for norm in dict.fromkeys(line["norm"] for line in measured["cells"]):
        title = f"## {THREATS[norm].symbol}: median distance / accuracy at {THRESHOLDS[norm]:g}"
        parts += [title, in_markdown(attacks(measured, norm))]
    parts += [f"![{name}]({path.rpartition('/')[2]})" for name, path in measured["figures"].items()]
    parts.append(f"{measured['seconds'] / 60:.0f} minutes of work, {result['date']}")
    return "\n\n".join(parts) + "\n"


def distance(value: float | None) -> str:
    return "∞" if value is None else number(value)
