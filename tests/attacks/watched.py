"""Models that remember what they were asked about."""

from collections.abc import Callable

import torch
from torch import Tensor

Watched = tuple[Callable[[Tensor], Tensor], list[Tensor]]


def watched(model: Callable[[Tensor], Tensor], gradients: bool = False) -> Watched:
    """The model as a function, and the batches that it was asked about, or for gradients alone."""
    batches: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        if x.requires_grad or not gradients:
            batches.append(x.detach().clone())
        return model(x)

    return function, batches


def firm(rise: Tensor | None = None, gradients: bool = False) -> Watched:
    """A model that always says class 0, whose margin rises with <rise, x>, and the points it sees."""

    def model(x: Tensor) -> Tensor:
        along = 0 * x.flatten(1).sum(1) if rise is None else (x * rise).flatten(1).sum(1)
        return torch.stack([0 * along + 1e4, along], 1)

    return watched(model, gradients)
