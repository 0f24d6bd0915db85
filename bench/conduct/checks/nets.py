"""Models with a known weakness, the images they are attacked on, and what a fresh pass says of a result."""

from typing import Any

import torch
from torch import Tensor, nn

from bench.conduct.attack import Attack

RADII = {"linf": 0.2, "l2": 0.7, "l1": 2.5}  # breaks most of the images of `mlp` and of `linear`


class Exact(nn.Module):
    """A net that computes in float64, so that no outcome hangs on the rounding of a batch."""

    def __init__(self, net: nn.Module, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.net, self.scale, self.shift = net.double(), scale, shift
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.double()) * self.scale + self.shift
        return logits.to(x.dtype)


class Counted(nn.Module):
    """Counts the images that pass forward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.images = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        logits: Tensor = self.net(x)
        return logits


def mlp(classes: int = 3, inputs: int = 16, gain: float = 4.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, classes))
    with torch.no_grad():
        net[3].weight.mul_(gain)
    return net


def linear(classes: int = 3, inputs: int = 16) -> nn.Sequential:
    """A linear classifier whose boundaries pass between the images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    with torch.no_grad():
        net[1].weight.mul_(8)
        net[1].bias.copy_(-net[1].weight.sum(1) / 2)
    return net


def images(size: int = 16, shape: tuple[int, ...] = (1, 4, 4), low: float = 0.0, high: float = 1.0) -> Tensor:
    drawn = torch.rand(size, *shape, generator=torch.Generator().manual_seed(1))
    return low + (high - low) * drawn


def labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def found(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images the model misreads in a fresh pass; NaN is no class."""
    with torch.no_grad():
        logits = model(x)
    return (logits.argmax(1) != y) & logits.isfinite().all(1) & x.flatten(1).isfinite().all(1)


def asked(attack: Attack, **given: Any) -> dict[str, Any]:
    """A radius of the attack's norm, and steps enough for it."""
    return {"radius": RADII[attack.norm], "steps": 50 if attack.minimal else 20, **given}


def broken(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, **given: Any) -> int:
    """How many images it breaks."""
    return int(found(model, attack(model, x, y, **asked(attack, **given)).x_adv.detach(), y).sum())


def lengths(away: Tensor, norm: str) -> Tensor:
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    return away.double().flatten(1).norm(order, dim=1)
