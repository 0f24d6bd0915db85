"""Tiny classifiers with known weaknesses, and the batches they are attacked on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks import Attack, AttackResult
from fastadv.models import ABS
from fastadv.threat import THREATS, Threat

# torch.manual_seed also asks for the stack, once for each kind of device: far slower than a small net
seed_cpu = torch.default_generator.manual_seed

# radii in the unit box over sixteen or so coordinates: enough to break some samples of `mlp`, not all
RADIUS = {"linf": 0.08, "l2": 0.25, "l1": 0.6, "l0": 2}


# half the steps of a quick run, where attacks keep every promise
SHORT: dict[str, dict[str, int]] = {
    **{name: {"steps": 5} for name in ("bim", "mim", "pgd")},
    **{name: {"steps": 10} for name in ("ead", "fmn")},
    **{name: {"levels": 10} for name in ("gaussian_noise", "salt_and_pepper", "uniform_noise")},
    **{name: {"queries": 105} for name in ("nes", "spsa")},
    "ddn": {"steps": 20},
    "pointwise": {"queries": 50},
}


@dataclass(frozen=True)
class Case:
    """An attack of the registry, called with short settings."""

    name: str
    entry: Attack

    @property
    def quick(self) -> dict[str, Any]:
        return {**self.entry.quick, **SHORT.get(self.name, {})}

    @property
    def oracle(self) -> dict[str, Any]:
        """Arguments for a run that meets the tolerance."""
        return {**self.entry.quick, **self.entry.oracle}

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Threat, **options: Any) -> AttackResult:
        return self.entry.run(model, x, y, threat, **{**self.quick, **options})

    def takes(self, option: str) -> bool:
        return option in self.entry.parameters or option in self.entry.quick


def threat(norm: str, scale: float = 1.0, box: tuple[float, float] = (0.0, 1.0)) -> Threat:
    return THREATS[norm](RADIUS[norm] * scale, box)


def linear(classes: int = 3, inputs: int = 16, seed: int = 0) -> nn.Sequential:
    """A linear classifier; its nearest boundary is known for every norm."""
    seed_cpu(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def mlp(classes=3, inputs=16, seed=0, dtype=torch.float64):
    """A smooth two-layer net; in float64 no sign hangs on rounding."""
    seed_cpu(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, classes)).to(dtype)
    with torch.no_grad():
        net[3].weight.mul_(4)
    return net


def convnet(classes: int = 4, channels: int = 2, seed: int = 0) -> nn.Sequential:
    """Two convolutions with BatchNorm that has seen data, left in train mode as a user might."""
    seed_cpu(seed)
    net = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ELU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ELU(),
        nn.Flatten(), nn.Linear(8 * 9, classes),
    )  # fmt: skip
    net(torch.rand(64, channels, 8, 8))
    return net


def images(size, shape=(1, 4, 4), seed=1, dtype=torch.float64):
    return torch.rand(size, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(model: Any, x: Tensor) -> Tensor:
    """What the model says, in eval mode, so that every sample is worth attacking."""
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    for part, _ in modes:
        part.training = False
    with torch.no_grad():
        y = model(x).argmax(1)
    for part, training in modes:
        part.training = training
    return y


def labeled(model: Any, x: Tensor) -> tuple[Any, Tensor, Tensor]:
    return model, x, labels(model, x)


def explained(**options: Any) -> tuple[ABS, Tensor, Tensor]:
    """A small ABS with random decoders, and images that these draw, of classes 0, 1, 2, 0, 1, 2."""
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 2, 6, 3, 3, generator=g) * 0.5, torch.randn(3, 6, 1, 4, 4, generator=g) * 0.5]
    biases = [torch.randn(3, 6, generator=g), torch.randn(3, 1, generator=g) * 0.5]
    model, y = ABS(weights, biases, (1, 2), prior_samples=100, **options), torch.arange(6) % 3
    return model, model.decoders(torch.randn(6, 3, 2, generator=g))[torch.arange(6), y], y


class Counted(nn.Module):
    """Reports the samples that pass forward, and those whose input gradient passes back."""

    def __init__(self, net, forward, backward):
        super().__init__()
        self.net, self.on_forward, self.on_backward = net, forward, backward

    def forward(self, x: Tensor) -> Tensor:
        self.on_forward(len(x))
        if x.requires_grad:
            x.register_hook(lambda gradient: self.on_backward(len(gradient)))
        logits: Tensor = self.net(x)
        return logits


class Noisy(nn.Module):
    """A net with noise on its logits, drawn anew at each call, which tells the sizes of its batches."""

    def __init__(self, sigma, tell=id, net=None):
        super().__init__()
        self.net, self.sigma, self.tell = net or mlp(), sigma, tell
        torch.manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        self.tell(len(x))
        logits: Tensor = self.net(x)
        return logits + self.sigma * torch.randn(logits.shape, dtype=logits.dtype)
