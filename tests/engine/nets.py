"""What tests of the engine search with."""

import torch
from torch import Tensor, nn


def convnet() -> nn.Sequential:
    """Two convolutions, each with a BatchNorm that has seen a batch, in training mode: [2, 8, 8] to 5."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Conv2d(c, 8, 3), nn.BatchNorm2d(8), nn.ELU()) for c in (2, 8))
    net = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(128, 5))
    net(torch.rand(32, 2, 8, 8))
    return net


def images(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 5


class Merges(nn.Linear):
    """Merges a second weight into its own in eval mode, and takes it out again in training mode."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.more, self.merged = nn.Parameter(torch.full((sizes[1], sizes[0]), 0.5)), False

    def train(self, mode: bool = True) -> "Merges":
        super().train(mode)
        if self.merged is mode:
            with torch.no_grad():
                self.weight.add_(self.more, alpha=-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.merged else self.weight + self.more
        return nn.functional.linear(x, weight, self.bias)
