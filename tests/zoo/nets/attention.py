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
    "patches": nn.Conv2d(3, 32, 2, stride=2), "token": nn.Parameter(torch.randn(1, 1, 32)),
    "place": nn.Parameter(torch.randn(1, 17, 32) * 0.1), "norm": nn.LayerNorm(32), "split": nn.Linear(32, 96),
    "join": nn.Linear(32, 32), "head": head(32),
}, batches=(3, 16, 1))  # fmt: skip
def vision_transformer(self: Any, x: Tensor) -> Any:
    tokens = self.patches(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.place
    q, k, v = self.split(self.norm(tokens)).view(len(x), 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 17, 32)
    return self.head((tokens + self.join(out))[:, 0])


@by_forward(lambda: {
    "lstm": nn.LSTM(12, 16, batch_first=True, bidirectional=True), "gru": nn.GRU(32, 16, 2, batch_first=True),
    "head": head(32),
}, shape=(10, 12), batches=(3, 16, 1))  # fmt: skip
def recurrent(self: Any, x: Tensor) -> Any:
    out, _ = self.lstm(x)
    _, last = self.gru(out)
    return self.head(last.transpose(0, 1))


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
