"""What an attack found, judged by the model as given whoever made it."""

from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.threat import THREATS


@dataclass(frozen=True)
class Outcome:
    """Distances of the successes, inf where there is none and 0 where the model was wrong from the start."""

    distances: list[float]

    def figures(self, radius: float) -> dict[str, Any]:
        """Robust accuracy inside a ball; for an infinite radius the median distance and the successes."""
        found = sum(d < inf for d in self.distances)
        if radius < inf:
            return {"robust_accuracy": round(1 - found / len(self.distances), 4)}
        return {"median": _short(median(self.distances)), "success": found / len(self.distances)}


def judge(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, norm: str, radius: float = inf) -> Outcome:
    """What x_adv is worth. A success is not classified as y; it lies in box and ball but for rounding."""
    threat = THREATS[norm](radius)
    with torch.no_grad():
        wrong, already = model(x_adv).argmax(1) != y, model(x).argmax(1) != y
    inside = ((x_adv >= -1e-6) & (x_adv <= 1 + 1e-6)).flatten(1).all(1)
    distance = threat.distance(x_adv, x)
    held = ~(wrong & inside & (distance <= radius * (1 + 1e-4)))
    distance = distance.masked_fill(held, inf).masked_fill(already, 0)
    return Outcome([_short(d) for d in distance.tolist()])


def _short(value: float) -> float:
    return float(f"{value:.5g}")
