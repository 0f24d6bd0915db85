"""A small net on images of 8 x 8 pixels, which attacks with small budgets break in part."""

import torch
from torch import Tensor, nn

from tests.attacks.nets import seed_cpu


def problem(count: int = 12, channels: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a net in training mode with BatchNorm, images in [0, 1], and its own labels of most of them."""
    seed_cpu(0)
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    )
    x = torch.rand(count, channels, 8, 8)
    model.eval()
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)  # all classes are near
        y = model(x).argmax(1)
    y[-1] = (y[-1] + 1) % 5  # one that it gets wrong
    return model.train(), x, y
