"""A model whose margin and gradient follow a script, whatever the points, so that schedules show."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

FAR = -9.0  # the margin where no gradient is asked for


def scripted(margins: Sequence[float], gradients: Callable[[int], Tensor]) -> tuple[nn.Module, list[Tensor]]:
    """A two-class model of one sample, and the points [D] at which it was asked for a gradient.

    At gradient number n its margin is margins[n], the last of them from there on, and the gradient of that is
    gradients(n) [D]. Label 0 is right where the margin is negative.
    """
    points: list[Tensor] = []

    class Scripted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            number = len(points)
            along = (x * gradients(number).to(x)).flatten(1).sum(1)
            value = FAR
            if x.requires_grad:
                value = margins[min(number, len(margins) - 1)]
                points.append(x.detach().clone().flatten())
            rise = along - along.detach() + value
            return torch.stack([0 * rise, rise], 1)

    return Scripted(), points
