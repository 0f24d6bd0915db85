"""How a search is to be done, and what ends it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastadv import losses
from fastadv.attacks.core.record import Rows


class Over(Exception):
    """Every sample has left the search."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How to search, and which point of a sample is the best."""

    minimum: bool  # successes rank by their distance to x, not by the loss
    loss: losses.Loss
    stop_early: bool
    rule: Callable[[Any], None]
    rows: Callable[[], Rows]
    restarts: int
    seed: int
    # in place of `Search.input_gradient`, where gradient rules make it
    gradient: Callable[[Any, Tensor, losses.Loss], tuple[Tensor, Tensor, Tensor]] | None = None
