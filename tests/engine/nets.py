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
