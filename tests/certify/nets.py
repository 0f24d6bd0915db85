"""A classifier whose true radius is known, and images at known distances from its border."""

import torch
from torch import Tensor, nn

SIGMA = 0.5


class Halfspace(nn.Module):
    """Two classes with a flat border: the smoothed classifier's radius is the distance to it."""

    def __init__(self, normal: Tensor, offset: float) -> None:
        super().__init__()
        self.normal = nn.Parameter(normal)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        side = x.flatten(1) @ self.normal.to(x.dtype) + self.offset
        return torch.stack([-side, side], dim=1)

    def distance(self, x: Tensor) -> Tensor:
        return (x.flatten(1).double() @ self.normal.double() + self.offset) / self.normal.double().norm()


NORMAL_VECTOR = torch.tensor([1.0, -1.0, -1.0, 1.0] * 4)


def images(count: int = 24) -> tuple[Tensor, Tensor]:
    """Return images whose distances from the border are spread evenly from -1.6 to 1.6."""
    along = torch.linspace(-1.6, 1.6, count)[
        torch.randperm(count, generator=torch.Generator().manual_seed(3))
    ]
    x = 0.5 + along[:, None] * NORMAL_VECTOR / 4
    return (x * 255).round().reshape(count, 1, 4, 4) / 255, torch.arange(count) % 2


def halfspace() -> Halfspace:
    return Halfspace(NORMAL_VECTOR * 4, 0.0011)  # between the points of the grid
