"""Models that remember what they were asked about, and one whose answers follow a script."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

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


FAR = -9.0  # the margin where no gradient is asked for


def scripted(margins, gradients, others=None):
    """A classifier of one sample of class 0, and the points [D] at which it was asked for a gradient.

    At gradient number n the margin of class 1 is margins[n], the last of them from there on, and its gradient
    is gradients(n) [D]. Where there are `others`, they are the margins of a class 2, whose gradient is zero.
    """
    points: list[Tensor] = []

    class Scripted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            number = len(points)
            along = (x * gradients(number).to(x)).flatten(1).sum(1)
            values = [FAR, FAR - 1]
            if x.requires_grad:
                values = [script[min(number, len(script) - 1)] for script in (margins, others or margins)]
                points.append(x.detach().clone().flatten())
            rise = along - along.detach() + values[0]
            logits = [0 * rise, rise] if others is None else [0 * rise, rise, 0 * rise + values[1]]
            return torch.stack(logits, 1)

    return Scripted(), points
