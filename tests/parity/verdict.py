"""What an attack found, judged by the model as given whoever made it, and who found more at equal passes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.threat import THREATS
from tests.parity.models import KEPT, KEPT_IMAGES
from tests.parity.store import Row

OURS = "fastadv"
# a run that stops where it succeeds spends a little more or less, and ours judges x and what it returns
EQUAL, VERDICTS = 1.05, 2


@dataclass(frozen=True)
class Outcome:
    """Distances of the successes, inf where there is none and 0 where the model was wrong from the start."""

    distances: list[float]

    def figures(self, radius: float) -> dict[str, Any]:
        """Robust accuracy inside a ball; for an infinite radius the median distance and the successes."""
        count = sum(d < inf for d in self.distances)
        if radius < inf:
            return {"robust_accuracy": round(1 - count / len(self.distances), 4)}
        return {"median": _short(median(self.distances)), "success": count / len(self.distances)}


def judge(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, norm: str, radius: float = inf) -> Outcome:
    """What x_adv is worth. A success is not classified as y; it lies in box and ball but for rounding."""
    threat = THREATS[norm](radius)
    with torch.no_grad():
        wrong, already = model(x_adv).argmax(1) != y, model(x).argmax(1) != y
    inside = ((x_adv >= -1e-6) & (x_adv <= 1 + 1e-6)).flatten(1).all(1)
    distance = threat.distance(x_adv, x)
    inside &= distance <= radius * (1 + 1e-4)
    if y.ndim > 1:
        wrong, distance = torch.where(inside[:, None, None], wrong, already), distance[:, None, None]
        wrong, distance = wrong.flatten(), distance.expand_as(y).flatten()
        inside, already = inside.new_ones(()), inside.new_zeros(())
    distance = distance.masked_fill(~(wrong & inside), inf).masked_fill(already, 0)
    return Outcome([_short(d) for d in distance.tolist()])


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def one_image(net: str) -> float:
    return 1.01 / (KEPT_IMAGES if net in KEPT else 100)


def figure(row: Row) -> float:
    """Median distance, or robust accuracy where there is a radius: the less, the better."""
    return float(row["robust_accuracy" if row["radius"] < inf else "median"])


def passes(row: Row) -> float:
    return float(row["forwards"] + row["backwards"]) / float(row["images"])


def best(rows: Iterable[Row]) -> Row | None:
    """The row that found most, and of equals the one with the fewest passes."""
    good = [row for row in rows if "error" not in row]
    return min(good, key=lambda row: (figure(row), passes(row)), default=None)


@dataclass(frozen=True)
class Line:
    """Our row, and those of others on one net at one radius."""

    ours: Row
    peers: Sequence[Row]

    @property
    def rival(self) -> Row | None:
        return best(self.peers)

    @property
    def worse(self) -> bool:
        """An error, a median more than 1 % farther, or more than one image more that holds."""
        if "error" in self.ours or self.rival is None:
            return "error" in self.ours
        if self.ours["radius"] == inf:
            return not figure(self.ours) <= 1.01 * figure(self.rival)
        return figure(self.ours) > figure(self.rival) + one_image(self.ours["net"])

    @property
    def dearer(self) -> bool:
        if "error" in self.ours or self.rival is None:
            return False
        return passes(self.ours) - VERDICTS > EQUAL * passes(self.rival)


def compared(rows: Iterable[Row]) -> list[Line]:
    """One line for each comparison that both sides have run, of rows of any order."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["net"], row["radius"]), []).append(row)
    lines = []
    for group in groups.values():
        ours = [row for row in group if row["package"] == OURS]
        peers = [row for row in group if row["package"] != OURS]
        lines += [Line(row, peers) for row in ours if peers]
    return lines
