"""PDGD: its steps by hand, the boxes and precisions it works in, and what it refuses."""

import math

import torch
from torch import nn

from fastadv.attacks import pdgd
from fastadv.attacks.methods.geometry import cosine
from fastadv.threat import L2


def plane(normal: torch.Tensor, bias: float) -> nn.Sequential:
    """Class 1 where normal . z > bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(normal), 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros_like(normal), normal]))
        model[1].bias.copy_(torch.tensor([bias, 0.0]))
    return model


def test_two_steps_by_hand() -> None:
    """The second one feels the pull of the first, which the box bent, and alone reaches the other class."""
    x = torch.tensor([[0.9, 0.2, 0.6]], dtype=torch.float64)
    normal = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    # half of the normal, as the mean begins at zero, but the first coordinate has room for 0.1 alone
    first = torch.tensor([0.1, 0.4, 0.0], dtype=torch.float64)
    # it is no success, so the weight has fallen
    pull = 5 * math.exp(-5 / 2) * first / math.sqrt(0.17)
    mean = 0.5 * 0.5 * normal + 0.5 * (normal - pull)
    second = (x[0] + first + cosine(1, 2, 0.01) * mean).clamp(0, 1)
    model = plane(7 * normal, 7 * float(normal @ (x[0] + (first + second - x[0]) / 2)))
    out = pdgd(model, x, torch.tensor([0]), L2(math.inf), steps=2, weight=5)
    torch.testing.assert_close(out.x_adv[0], second, rtol=0, atol=1e-12)
