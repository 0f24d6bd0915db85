"""An attack of any library, called alike: what it is given, what it gives back, what it can do."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

# what an attack may take besides a model, images and labels
RADIUS, STEP, START, RESTARTS, TARGETS, BOUNDS = "radius", "step", "start", "restarts", "targets", "bounds"


@dataclass(frozen=True)
class Given:
    """What an attack is asked for. It reads what it can take; a minimum-norm attack reads no radius."""

    radius: float = 0.1
    steps: int = 10
    step: float | None = None  # the size of one step; a quarter of the radius where None
    start: bool = False  # at a random point
    restarts: int = 1
    targets: Tensor | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    classes: int = 2

    @property
    def stride(self) -> float:
        return self.radius / 4 if self.step is None else self.step


@dataclass(frozen=True)
class Answer:
    """The images, and which of them the library says are adversarial; None where it does not say."""

    x_adv: Tensor
    success: Tensor | None = None


Run = Callable[[Any, Tensor, Tensor, Given], Answer]


@dataclass(frozen=True)
class Attack:
    """One attack under its name in its library. `seeded`: its draws are keyed by its own seed alone."""

    library: str
    name: str
    norm: str
    call: Run
    can: frozenset[str] = frozenset()
    loss: str = ""
    exports: Callable[[nn.Module, Tensor, Tensor, Given], Tensor] | None = None

    @property
    def minimal(self) -> bool:
        """Whether it looks for the nearest point, and not for any inside a radius."""
        return RADIUS not in self.can

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, **given: Any) -> Answer:
        asked = replace(Given(), **given)
        torch.manual_seed(0)
        answer = self.call(model, x, y, asked)
        return Answer(answer.x_adv, None if answer.success is None else answer.success.bool())


def can(*names: str) -> frozenset[str]:
    return frozenset(names)


ORDER = {"linf": inf, "l2": 2.0, "l1": 1.0}
