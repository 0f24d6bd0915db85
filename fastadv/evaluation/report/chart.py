"""Accuracy against radius as coordinates: attacks above, what is proved below, intervals as bands."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastadv.attacks.masking.evidence import SLACK
from fastadv.evaluation.curve import Curve
from fastadv.evaluation.report.grid import Grid
from fastadv.evaluation.row import Group, Row
from fastadv.evaluation.table import Table
from fastadv.intervals import clopper_pearson
from fastadv.text import percent, with_interval

LEFT, TOP, RIGHT, BOTTOM = 52, 12, 628, 252  # of the axes, in the units of the drawing
MOST, POINTS, TOLD = 6, 120, 11  # lines; radii of a line; radii of the table beside it


class Line(NamedTuple):
    """A curve with its interval, as points of a drawing: `band` is a polygon."""

    name: str
    points: str
    band: str
    dots: Sequence[tuple[float, float]]  # the radii that were measured, where they are few


class Mark(NamedTuple):
    """An attack with a budget: a point and the ends of its interval."""

    name: str
    across: float
    up: float
    low: float
    high: float


class Chart(NamedTuple):
    """A drawing for one norm. between: the polygon from what is proved up to what attacks leave."""

    symbol: str
    lines: Sequence[Line]
    marks: Sequence[Mark]
    between: str
    radii: Sequence[tuple[float, str]]
    shares: Sequence[tuple[float, str]]
    grid: Grid
    left_out: int


def chart(table: Table, group: Group, curves: Mapping[str, Curve], bounds: Tensor | None) -> Chart | None:
    """Return the drawing for the norm of a group; None where one radius alone was measured."""
    if group.threat is None or not group.whole:
        return None
    titles = {row.name: row.title for row in table.rows}
    curves = {titles.get(name, name): curve for name, curve in curves.items()}
    rows = group.same(table.rows)
    minimal = [row for row in rows if row.minimum_norm]
    undrawn = {row.title for row in table.rows} - {row.title for row in rows if not row.minimum_norm}
    drawn = {name: curve for name, curve in curves.items() if name not in undrawn}
    budgets = [row for row in rows if _reach(row) < math.inf and not row.minimum_norm]
    if not minimal and not drawn and bounds is None:
        return None
    ends = [*map(_reach, budgets), *(float(curve.radii[-1]) for curve in drawn.values())]
    ends += [_far(row.distance) for row in minimal] + ([] if bounds is None else [_far(bounds)])
    right = max(ends, default=1.0) or 1.0
    # radii of the table beside the lines: those that were tried, else some of the axis
    tried = np.unique([at for curve in drawn.values() for at in curve.radii] or np.linspace(0, right, TOLD))
    radii = np.union1d(np.linspace(0, right, POINTS + 1), tried)
    known: dict[str, Curve] = {}
    if minimal and len(rows) > 1:
        known["all attacks"] = _curve(group.nearest(table.rows), radii[radii <= max(map(_reach, minimal))])
    if len(minimal) > 1 or len(rows) == 1:
        known |= {row.title: _curve(row.distance, radii[radii <= _reach(row)]) for row in minimal}
    known |= drawn
    most = MOST - (bounds is not None)
    left_out = max(0, len(known) - most)
    known = dict(list(known.items())[:most])
    proved = None if bounds is None else Curve.from_certificates(bounds, table.correct, radii)
    if proved is not None:
        known["proved"] = proved
    lines = [_line(name, curve, table.n, right, name in drawn) for name, curve in known.items()]
    marks = [_mark(row, right) for row in budgets if row.title not in drawn]
    first = next(iter(known.values()))
    between = _polygon(first, proved, right) if proved is not None and first is not proved else ""
    return Chart(
        f"{group.threat.symbol}{group.rows[0].apart}", lines, marks, between,
        [(_across(at, right), f"{at:.2g}") for at in _ticks(right)],
        [(_up(share), f"{share:.0%}") for share in (0, 0.2, 0.4, 0.6, 0.8, 1)],
        _grid(known, table.n, tried.tolist(), doubt=bool(table.headline)),
        left_out,
    )  # fmt: skip


def _curve(distances: Tensor, radii: NDArray[np.float64]) -> Curve:
    """Return the accuracy at each radius, within which a distance counts that rounding lengthened."""
    return Curve.from_distances(distances / (1 + SLACK), radii)


def _reach(row: Row) -> float:
    """Return the radius up to which an attack searched."""
    return math.inf if row.threat is None else float(row.threat.radius)


def _far(distance: Tensor) -> float:
    """Return the distance up to which the axis goes: that of nearly all samples that have one."""
    known = distance[distance.isfinite()]
    return float(known.double().quantile(0.98)) if len(known) else 0.0


def _across(radius: float, right: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * radius / right, 1)


def _up(share: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * share, 1)


def _line(name: str, curve: Curve, samples: int, right: float, measured: bool) -> Line:
    low, high = curve.band(samples)
    dots = [(_across(at, right), _up(share)) for at, share in zip(*curve, strict=True)] if measured else []
    return Line(name, _points(curve, right), _polygon(low, high, right), dots)


def _mark(row: Row, right: float) -> Mark:
    ends = (_up(end) for end in row.accuracy_interval)
    return Mark(row.title, _across(_reach(row), right), _up(row.robust_accuracy), *ends)


def _points(curve: Curve, right: float) -> str:
    pairs = zip(curve.radii, curve.accuracy, strict=True)
    return " ".join(f"{_across(at, right)},{_up(share)}" for at, share in pairs)


def _polygon(low: Curve, high: Curve, right: float) -> str:
    back = Curve(high.radii[::-1], high.accuracy[::-1])
    return f"{_points(low, right)} {_points(back, right)}"


def _ticks(right: float) -> NDArray[np.float64]:
    """Return round radii, four to eight of them."""
    power = 10.0 ** math.floor(math.log10(right))
    step = next(step * power for step in (2, 1, 0.5, 0.2, 0.1) if right / (step * power) >= 4)
    return np.arange(0, right * (1 + 1e-9), step)


def _grid(known: Mapping[str, Curve], samples: int, radii: Sequence[float], doubt: bool) -> Grid:
    """Return the same as a table, at these radii."""

    def cell(curve: Curve, radius: float) -> str:
        if not curve.radii[0] <= radius <= curve.radii[-1]:
            return "-"
        share = curve.at(radius)
        interval = clopper_pearson(round(share * samples), samples)
        return percent(share) if doubt else with_interval(percent, share, interval)

    lines = [[f"{radius:.4g}", *(cell(curve, radius) for curve in known.values())] for radius in radii]
    caption = "Accuracy at each radius" + ", with its 95% interval" * (not doubt)
    return caption, [["radius", *known], *lines]
