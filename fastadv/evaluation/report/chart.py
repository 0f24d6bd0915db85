"""Accuracy against radius as coordinates: attacks above, what is proved below, intervals as bands."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastadv.evaluation.curve import Curve
from fastadv.evaluation.report.grid import Grid
from fastadv.evaluation.row import Group, Row
from fastadv.evaluation.table import Table
from fastadv.intervals import clopper_pearson
from fastadv.text import percent, with_interval

LEFT, TOP, RIGHT, BOTTOM = 52, 12, 628, 252  # of the axes, in the units of the drawing
MOST, POINTS, TOLD = 6, 120, 11  # lines; radii of a line; radii of the table beside it


class Chart(NamedTuple):
    """A drawing for one norm. marks: attacks with a budget. right: the largest radius of the axis."""

    symbol: str
    right: float
    curves: Mapping[str, Curve]  # the first at the top; "proved" is last
    measured: Sequence[str]  # names of curves whose radii are shown as dots
    marks: Sequence[Row]
    grid: Grid
    left_out: int  # curves that found no room

    @property
    def between(self) -> tuple[Curve, Curve] | None:
        """What is proved and what attacks leave, where the drawing has both."""
        known = [*self.curves.values()]
        return (known[0], known[-1]) if "proved" in self.curves and len(known) > 1 else None


def chart(table: Table, group: Group, curves: Mapping[str, Curve], bounds: Tensor | None) -> Chart | None:
    """Return the drawing for the norm of a group; None where one radius alone was measured."""
    if group.threat is None or not group.whole:
        return None
    titles = {row.name: row.title for row in table.rows}
    curves = {titles.get(name, name): curve for name, curve in curves.items()}
    rows = group.same(table.rows)
    minimal = [row for row in rows if row.minimum_norm]
    undrawn = {row.title for row in table.rows} - {row.title for row in rows if not row.minimum_norm}
    tried = {name: curve for name, curve in curves.items() if name not in undrawn}
    budgets = [row for row in rows if _reach(row) < math.inf and not row.minimum_norm]
    if not minimal and not tried and bounds is None:
        return None
    ends = [*map(_reach, budgets), *(float(curve.radii[-1]) for curve in tried.values())]
    ends += [_far(row.distance) for row in minimal] + ([] if bounds is None else [_far(bounds)])
    right = max(ends, default=1.0) or 1.0
    # radii of the table beside the lines: those that were tried, else some of the axis
    shown = np.unique([at for curve in tried.values() for at in curve.radii] or np.linspace(0, right, TOLD))
    radii = np.union1d(np.linspace(0, right, POINTS + 1), shown)
    known: dict[str, Curve] = {}
    if minimal and len(rows) > 1:
        near, searched = group.nearest(table.rows), radii[radii <= max(map(_reach, minimal))]
        known["all attacks"] = Curve.from_distances(near, searched)
    for row in minimal if len(minimal) > 1 or len(rows) == 1 else ():
        known[row.title] = Curve.from_distances(row.broken_at, radii[radii <= _reach(row)])
    known |= tried
    most = MOST - (bounds is not None)
    left_out = max(0, len(known) - most)
    known = dict(list(known.items())[:most])
    if bounds is not None:
        known["proved"] = Curve.from_certificates(bounds, table.correct, radii)
    grid = _grid(known, table.n, shown.tolist(), doubt=bool(table.lead))
    marks = [row for row in budgets if row.title not in tried]
    return Chart(group.symbol, right, known, [*tried], marks, grid, left_out)


def _reach(row: Row) -> float:
    """Return the radius up to which an attack searched."""
    return math.inf if row.threat is None else float(row.threat.radius)


def _far(distance: Tensor) -> float:
    """Return the distance up to which the axis goes: that of nearly all samples that have one."""
    known = distance[distance.isfinite()]
    return float(known.double().quantile(0.98)) if len(known) else 0.0


def across(radius: float, right: float) -> float:
    """Return where a radius stands on an axis that ends at `right`."""
    return round(LEFT + (RIGHT - LEFT) * radius / right, 1)


def up(share: float) -> float:
    """Return where a share stands."""
    return round(BOTTOM - (BOTTOM - TOP) * share, 1)


def points(curve: Curve, right: float) -> str:
    """Return a curve as points of a line."""
    return " ".join(f"{across(at, right)},{up(share)}" for at, share in zip(*curve, strict=True))


def polygon(right: float, low: Curve, high: Curve) -> str:
    """Return what lies between two curves, as points."""
    return f"{points(low, right)} {points(Curve(high.radii[::-1], high.accuracy[::-1]), right)}"


def ticks(right: float) -> NDArray[np.float64]:
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
