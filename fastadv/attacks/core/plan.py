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
    """How to search, and which point of a sample is the best.

    In a search for the `minimum` successes rank by their distance to x; otherwise successes come first, then
    the larger `loss`. `gradient` takes the place of `Search.input_gradient`, where gradient rules make it.
    """

    minimum: bool
    loss: losses.Loss
    stop_early: bool
    rule: Callable[[Any], None]
    rows: Callable[[], Rows]
    restarts: int
    seed: int
    gradient: Callable[[Any, Tensor, losses.Loss], tuple[Tensor, Tensor, Tensor]] | None = None
