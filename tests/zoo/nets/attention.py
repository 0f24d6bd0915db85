"""Nets beyond convolutions: attention, recurrence, transforms, tables."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import block, by_forward, head


@by_forward(lambda: {"linear": nn.Linear(12, 64), "head": head(256)}, shape=(12, 4))
def linear_on_transposed_positions(self: Any, x: Tensor) -> Any:
    """Of which torch takes one product or many, as the weights require a gradient or not."""
    return self.head(torch.relu(self.linear(x.transpose(1, 2))))


@by_forward(lambda: {
    "first": block(), "filter": nn.Parameter(torch.randn(16, 8, 5, 2)), "head": head(16 * 8 * 13),
})  # fmt: skip
def fourier(self: Any, x: Tensor) -> Any:
    spectrum = torch.fft.rfft2(self.first(x), norm="ortho")
    out = torch.fft.irfft2(spectrum * torch.view_as_complex(self.filter), s=(8, 8), norm="ortho")
    return self.head(torch.cat([out, spectrum.abs()], 3))


@by_forward(lambda: {"turn": head(192, 6), "net": nn.Sequential(block(), head())})
def spatial_transformer(self: Any, x: Tensor) -> Any:
    turn = self.turn(x).view(-1, 2, 3) * 0.1 + torch.eye(2, 3, device=x.device)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    return self.net(F.grid_sample(x, grid, align_corners=False, padding_mode="border"))
