"""Mistakes planted into every rewrite: what passes is right, or so little off that no attack feels it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine.copying import fold
from fastadv.engine.cpu import activations, onednn, thin, winograd
from tests.engine.rewritten import answers
from tests.engine.test_guard import Changed, needs_onednn

# rows, size of the image, and by what its pixels are multiplied
BATCHES = [
    *((16, 12, 1), (31, 12, 1), (20, 12, 1), (64, 12, 1), (40, 9, 1), (50, 12, 1), (5, 12, 1), (16, 12, 1)),
    *((16, 12, 300), (20, 12, 1)),
]  # fmt: skip
Planted = Callable[[pytest.MonkeyPatch], None]
Change = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Three convolutions, which are thin, for Winograd's method and folded; ReLU, ELU, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.third, self.norm, self.fc = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.Linear(32, 5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.running_var.uniform_(0.2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu(self.second(F.relu(self.first(x))))
        logits: Tensor = self.fc(F.relu(self.norm(self.third(h))).mean((2, 3)))
        return logits


@pytest.fixture(autouse=True)
def _small_layers_too(small_ones_too: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "LEAST_WEIGHTS", 0)


def part(change: Callable[[Tensor], object]) -> Change:
    """Make a change of a copy that writes into it."""

    def changed(given: Tensor) -> Tensor:
        made = given.clone()
        change(made)
        return made

    return changed


def relu(change: Change) -> Planted:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        real: Any = activations.relu_gradient
        monkeypatch.setattr(activations, "relu_gradient", lambda *given: change(real(*given)))

    return plant


def thinly(change: Change) -> Planted:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        real: Any = thin.thin_gradient
        monkeypatch.setattr(thin, "thin_gradient", lambda *given: change(real(*given)))

    return plant


def elu(change: Callable[[Tensor, Tensor], Tensor]) -> Planted:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        real: Any = activations.elu
        monkeypatch.setattr(activations, "elu", lambda x, scale: change(x, real(x, scale)))

    return plant


def back(change: Change) -> Planted:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        real = winograd._Convolution.backward
        monkeypatch.setattr(
            winograd._Convolution,
            "backward",
            staticmethod(lambda ctx, g: (change(real(ctx, g)[0]), None, None, None, None)),
        )

    return plant


def folding(change: Callable[[Tensor, Tensor], object]) -> Planted:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        real: Any = fold._folded

        def folded(*given: Any) -> tuple[Tensor, Tensor]:
            weight, bias = real(*given)
            change(weight, bias)
            return weight, bias

        monkeypatch.setattr(fold, "_folded", folded)

    return plant


def after(calls: int, change: Change) -> Change:
    made: list[int] = []

    def changed(given: Tensor) -> Tensor:
        made.append(1)
        return change(given) if len(made) > calls else given

    return changed


def flip_half(gradient: Tensor) -> Tensor:
    return torch.cat([-gradient[:, :, : gradient.shape[2] // 2], gradient[:, :, gradient.shape[2] // 2 :]], 2)


def for_rows(change: Change, *counts: int) -> Change:
    return lambda given: change(given) if len(given) in counts else given


def noisy(gradient: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return gradient * (1 + 0.03 * torch.randn(gradient.shape, generator=draw)).to(gradient)


PLANTS: dict[str, Planted] = {
    "relu, one channel's sign": relu(part(lambda g: g[:, 3].neg_())),
    "relu, zero for many rows": relu(lambda g: g * 0 if len(g) > 16 else g),
    "relu, odd widths": relu(lambda g: g * 0 if g.shape[-1] % 2 else g),
    "relu, half": relu(lambda g: 0.5 * g),
    "relu, noise": relu(noisy),
    "relu, every eighth row shorter": relu(part(lambda g: g[::8].mul_(0.45))),
    "relu, every eighth row loses channels": relu(part(lambda g: g[::8, :8].zero_())),
    "relu, half the image for some rows": relu(for_rows(flip_half, 20, 40, 50)),
    "relu, every second channel later": relu(after(12, part(lambda g: g[:, ::2].neg_()))),
    "thin, a quadrant": thinly(part(lambda g: g[:, :, :6, :6].zero_())),
    "thin, the last row": thinly(part(lambda g: g[-1].zero_())),
    "thin, the last row shorter": thinly(part(lambda g: g[-1].mul_(0.5 if len(g) > 8 else 1))),
    "thin, sign later": thinly(after(6, torch.neg)),
    "thin, a channel's sign": thinly(part(lambda g: g[:, 2].neg_())),
    "thin, the border": thinly(part(lambda g: g[:, :, [0, -1]].zero_())),
    "thin, signs for five rows": thinly(for_rows(lambda g: g.sign() * g.abs().max(), 5)),
    "winograd, large values": lambda patch: plant_large(patch),
    "winograd, last columns": back(part(lambda g: g[..., g.shape[-1] // 4 * 4 :].zero_())),
    "elu, small values": elu(lambda x, out: torch.where(x < -3, out + 1, out)),
    "elu, many rows": elu(lambda x, out: 0.2 * out if len(out) > 16 else out),
    "elu without gradient": elu(lambda x, out: out if x.requires_grad else 0.2 * out),
    "elu without gradient, many rows": elu(
        lambda x, out: 0.2 * out if not x.requires_grad and len(out) > 16 else out
    ),
    "elu, the gradient of many rows": elu(
        lambda x, out: Changed.apply(out, torch.neg) if x.requires_grad and len(out) > 16 else out
    ),
    "fold, one bias": folding(lambda weight, bias: bias[0].mul_(1.003)),
    "fold, one weight": folding(lambda weight, bias: weight[0, 0].mul_(1.1)),
}
# from what call on, or by how many passes, what turns wrong is found: it is compared again after EVERY passes
LATER = {"relu, every second channel later", "thin, sign later"}


def plant_large(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = winograd._Convolution.forward

    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        out: Tensor = real(ctx, x, *rest)
        return torch.where(out.abs() > 10, 0.3 * out, out)

    monkeypatch.setattr(winograd._Convolution, "forward", staticmethod(forward))


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_planted_mistake_is_seen_or_harmless(
    plant: str, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLANTS[plant](monkeypatch)
    net = Net().eval()
    frozen = fa.freeze(net, precision)
    draw = torch.Generator().manual_seed(1)
    batches = BATCHES
    if plant in LATER:  # an attack, and the next one
        batches = [(16, 12, 1)] * 10
        x, y = torch.rand(16, 3, 12, 12, generator=draw), torch.arange(16) % 5
        for _ in range(70):
            frozen.input_gradient(x, y)
    for count, size, scale in batches:
        x, y = scale * torch.rand(count, 3, size, size, generator=draw), torch.arange(count) % 5
        logits, gradient = answers(net, x, y)
        spread = float((logits - logits.mean(1, keepdim=True)).abs().max())
        searched = [frozen(x), *frozen.input_gradient(x, y)[1:]]
        for found in searched[:2]:
            off = float((found - logits).abs().max()) / spread
            assert off < (2e-3 if precision == "fp32" else 0.1), (count, off)
        alike = F.cosine_similarity(searched[2].flatten(1), gradient.flatten(1))
        length = searched[2].flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
        real = gradient.flatten(1).norm(dim=1) > 1e-6 * gradient.flatten(1).norm(dim=1).max()
        if precision == "fp32":
            assert alike[real].min() > 0.9, (count, frozen.notes)
            assert ((length[real] - 1).abs() < 0.3).all(), (count, frozen.notes)
        kinks = 1 + count // 16
        bad = (alike[real] < (0.999 if precision == "fp32" else 0.9)) | ((length[real] - 1).abs() > 0.3)
        assert int(bad.sum()) <= kinks, (count, alike.min(), length.min(), frozen.notes)
