"""The hardest samples, with traces: those that held by the largest margin, then those broken farthest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.attacks.pgd import pgd
from fastadv.engine import Prepared
from fastadv.errors import NoGradientError
from fastadv.evaluation.report.asked import Watched, logits, margins, on_device
from fastadv.evaluation.report.classes import class_name
from fastadv.evaluation.report.pictures import in_unit, is_image, png, small
from fastadv.evaluation.table import Table
from fastadv.text import number
from fastadv.threat import Threat

SHOWN, STEPS = 6, 40
WIDTH, HEIGHT = 160, 48  # of a trace, in its own units


@dataclass(frozen=True)
class Hard:
    """A sample: its image, "" without one, and its trace as points of a line, "" without one."""

    picture: str
    label: str
    told: str
    points: str
    zero: float  # the height at which the sample is broken
    trend: str


def hardest(
    table: Table, model: Prepared | None, threat: Threat | None, classes: Sequence[str] | None,
    *, farthest: bool = True,
) -> tuple[list[Hard], str]:  # fmt: skip
    """Return the hardest samples, and what must be known of their traces, or why there are none.

    farthest: after those that held, those broken farthest; distances must then be of one norm.
    """
    kept = table.samples
    if kept is None:
        return [], "the table keeps no samples; evaluate with keep_samples=True"
    chosen = _chosen(table, model, farthest)
    if not len(chosen):
        return [], "no sample held against all attacks"
    traced, why = _traces(model, threat, kept.x[chosen], kept.y[chosen], kept.ids[chosen], kept.distance)
    ends = [value for each in traced for value in each] + [0.0]
    low, high = min(ends), max(ends)
    box = threat.box if threat is not None else (0.0, 1.0)
    shown = []
    for place, index in enumerate(chosen.tolist()):
        distance = float(kept.distance[index])
        became = f"broken at {number(distance)}" if kept.by[index] >= 0 else "held"
        picture = png(small(in_unit(kept.x[index : index + 1], box))[0]) if is_image(kept.x) else ""
        line = traced[place] if traced else []
        shown.append(
            Hard(
                picture, class_name(int(kept.y[index]), classes), f"sample {int(kept.ids[index])}, {became}",
                _points(line, low, high), _height(0.0, low, high), _trend(line),
            )
        )  # fmt: skip
    return shown, why


def _chosen(table: Table, model: Prepared | None, farthest: bool) -> Tensor:
    """Return the places of the hardest: of those that held, the surest where the model can be asked."""
    kept = table.samples
    assert kept is not None
    held = (table.correct & (kept.by < 0)).nonzero()[:, 0]
    if model is not None and len(held):
        held = held[margins(logits(model, kept.x[held]), kept.y[held]).argsort(stable=True)]
    broken = (kept.by >= 0).nonzero()[:, 0]
    far = broken[kept.distance[broken].argsort(descending=True, stable=True)]
    return torch.cat([held, far] if farthest else [held])[:SHOWN]


def _traces(
    model: Prepared | None,
    threat: Threat | None,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    distance: Tensor,
) -> tuple[list[list[float]], str]:
    """Return the margins of each sample along PGD, and what they are; or none, and why."""
    if model is None:
        return [], "Traces need the model, which was not given."
    if threat is None:
        return [], "Traces need a threat, which the attacks do not tell."
    if not threat.finite:
        known = distance[distance.isfinite() & (distance > 0)]
        if not len(known):
            return [], "Traces need a radius, and no attack found a distance."
        threat = threat.with_radius(float(known.max()))
    try:
        watched = Watched(model, ids)
        x, y, ids = (on_device(model, each) for each in (x, y, ids))
        pgd(watched, x, y, threat, steps=STEPS, stop_early=False, ids=ids)
    except NoGradientError as error:
        return [], f"Traces need a gradient, which the model does not have ({error})."
    return list(watched.margins.values()), (
        f"Each line is the margin of one sample, the largest other logit less that of its label, along "
        f"{STEPS} steps of PGD within {threat.symbol} {float(threat.radius):.3g}; above the dashed line the "
        "sample is broken."
    )


def _points(line: Sequence[float], low: float, high: float) -> str:
    apart = WIDTH / max(len(line) - 1, 1)
    return " ".join(f"{apart * at:.1f},{_height(value, low, high):.1f}" for at, value in enumerate(line))


def _height(value: float, low: float, high: float) -> float:
    return round(2 + (HEIGHT - 4) * (1 - (value - low) / ((high - low) or 1.0)), 1)


def _trend(line: Sequence[float]) -> str:
    if len(line) < 2:
        return ""
    return f"margin from {number(line[0])} to {number(line[-1])}"
