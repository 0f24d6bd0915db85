"""Eight honest nets for the digits, and layers in one of them.

    python -m tests.attacks.masking.nets

trains the nets, a minute of one core, and writes their weights in half precision, ABS apart, which is fitted
where it is asked for.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fastadv as fa
from fastadv.rng import generators_kept
from tests.defenses import Defended, PartlyDetached

WEIGHTS = Path(__file__).parents[1] / "weights" / "honest.safetensors"


class StraightThrough(nn.Module):
    """Round to sixteenths with the gradient of the identity, as in training that is aware of quantization."""

    def forward(self, h: Tensor) -> Tensor:
        return h + ((h * 16).round() / 16 - h).detach()


class ViT(nn.Module):
    """Patches of 2 x 2, two blocks of attention, the mean of the tokens."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Conv2d(1, width, 2, 2), nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(h.mean(1))
        return logits


def cnn(width: int = 8, depth: int = 1, rounds: bool = False) -> nn.Sequential:
    rounding = [StraightThrough()] * rounds
    layers: list[nn.Module] = []
    for place in range(depth):
        layers += [nn.Conv2d(width if place else 1, width, 3, padding=1), nn.ELU(), *rounding]
    layers += [nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(), *rounding, nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32 * width, 48), nn.ReLU(), nn.Linear(48, 10))


# the net, its recipe, epochs, learning rate
MADE: dict[str, tuple[Callable[[], nn.Module], fa.train.Recipe, int, float]] = {
    "standard": (cnn, fa.train.Standard(), 8, 3e-3),
    "robust": (lambda: cnn(16), fa.train.PGDTraining(fa.Linf(0.15), steps=7), 12, 3e-3),
    "quantization-aware": (lambda: cnn(rounds=True), fa.train.Standard(), 8, 3e-3),
    "vit": (ViT, fa.train.Standard(), 15, 3e-3),
    "small": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), fa.train.Standard(), 10, 3e-3),
    "deep": (lambda: cnn(depth=6), fa.train.Standard(), 12, 2e-3),
    "wide": (lambda: cnn(24), fa.train.Standard(), 6, 1e-3),
}
HONEST = (*MADE, "abs")


@cache
def honest(name: str) -> nn.Module:
    if name == "abs":
        return fa.models.ABS.fit(fa.data.load("digits", "train"), epochs=4, prior_samples=50, steps=15)
    with generators_kept(torch.device("cpu"), 0):
        net = MADE[name][0]().eval()
    stored = load_file(WEIGHTS)
    net.load_state_dict({key: stored[f"{name}.{key}"].float() for key in net.state_dict()})
    return net


def in_front(layer: nn.Module) -> nn.Module:
    return Defended(honest("standard"), before=layer).eval()


def behind(layer: nn.Module) -> nn.Module:
    return Defended(honest("standard"), after=layer).eval()


def everywhere(make: Callable[[Tensor], nn.Module]) -> nn.Module:
    """A layer after each activation of the standard net, made for its values on digits."""
    layers: list[nn.Module] = []
    h = fa.data.load("digits", "train", limit=200).x
    with torch.no_grad():
        for layer in honest("standard"):  # type: ignore[attr-defined]
            layers.append(layer)
            h = layer(h)
            if isinstance(layer, nn.ELU | nn.ReLU):
                layers.append(make(h))
                h = layers[-1](h)
    return nn.Sequential(*layers).eval()


class OwnCut(nn.Module):
    """The standard net, which detaches half of its first channels between two of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.cut = honest("standard"), PartlyDetached(0.5, 1).forward

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.net.children()
        h = self.cut(first(x))
        for layer in rest:
            h = layer(h)
        return h


def main() -> None:
    torch.set_num_threads(1)
    train_set, stored = fa.data.load("digits", "train"), {}
    for name, (make, recipe, epochs, rate) in MADE.items():
        with generators_kept(torch.device("cpu"), 0):
            net = make()
        fa.train.fit(
            net, train_set, recipe, epochs=epochs, batch_size=64, optimizer="adam", learning_rate=rate,
            optimization=fa.train.Optimization(schedule="constant"),
        )  # fmt: skip
        stored |= {f"{name}.{key}": value.half().contiguous() for key, value in net.state_dict().items()}
    save_file(stored, WEIGHTS)


if __name__ == "__main__":
    main()
