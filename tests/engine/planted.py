"""Mistakes to plant into rewrites, and a net that uses all of these."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine import fold, search_copy
from fastadv.engine.cpu import onednn, thin, winograd
from fastadv.engine.layout import VIEWS
from fastadv.engine.search_copy import SearchCopy

needs_onednn = pytest.mark.skipif(
    not winograd.available(torch.float32), reason="torch was built without oneDNN, or fastadv unbuilt"
)

X = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.arange(24) % 5
Planted = Callable[[pytest.MonkeyPatch], None]
Change = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Something for each rewrite: one channel in, BatchNorm, wide products."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.hidden, self.last = nn.Linear(1024, 64), nn.Linear(64, 5)
        self.norm.running_mean.uniform_(-0.2, 0.2)
        self.norm.running_var.uniform_(0.2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.second(x)).view(len(x), -1)
        return self.last(F.elu(self.hidden(x)))


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


class Changed(torch.autograd.Function):
    """Leaves values as they are, and changes their gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


def thinly(change: Change) -> Planted:
    real: Any = thin.thin_gradient
    return lambda patch: patch.setattr(thin, "thin_gradient", lambda *given: change(real(*given)))


def convolved(change: Change) -> Planted:
    """Into what Winograd's method returns where a gradient is followed."""
    real: Any = winograd._Convolution.apply

    def apply(x: Tensor, *rest: Any) -> Tensor:
        made = real(x, *rest)
        return change(made) if x.requires_grad else made

    return lambda patch: patch.setattr(winograd._Convolution, "apply", staticmethod(apply))


def backward(of: Any, change: Change) -> Planted:
    """Into the first gradient that a function returns."""
    real = of.backward

    def run(ctx: Any, gradient: Tensor) -> Any:
        first, *others = real(ctx, gradient)
        return change(first), *others

    return lambda patch: patch.setattr(of, "backward", staticmethod(run))


def wino(change: Change) -> Planted:
    return backward(winograd._Convolution, change)


def linear(change: Change) -> Planted:
    """Into the last layer of `Net`."""
    return backward(onednn._Linear, lambda found: change(found) if found.shape[1] == 64 else found)


def folds(patch: pytest.MonkeyPatch) -> None:
    real = fold.Pair._folded
    patch.setattr(fold.Pair, "_folded", lambda pair: (1.01 * real(pair)[0], real(pair)[1]))


def beside_the_norm(patch: pytest.MonkeyPatch) -> None:
    """Into the gradient of what a folded BatchNorm returns."""
    patch.setattr(fold, "_same", lambda x: Changed.apply(x, torch.neg))


def views(patch: pytest.MonkeyPatch) -> None:
    """In the order in which a channels-last tensor lies in memory."""
    patch.setitem(VIEWS.replace, Tensor.view, lambda x, *shape: x.movedim(1, -1).reshape(*shape))  # type: ignore[arg-type]


def coarsely(patch: pytest.MonkeyPatch) -> None:
    real = SearchCopy._ready
    patch.setattr(SearchCopy, "_ready", lambda self, x: (16 * real(self, x)).round() / 16)


def scaled(patch: pytest.MonkeyPatch) -> None:
    real = search_copy.pull_scaled
    patch.setattr(search_copy, "pull_scaled", lambda *given: 2 * real(*given))


# what is planted, the precisions in which it is there, and what differs then
WRONG: dict[str, tuple[Planted, tuple[str, ...], str]] = {
    "thin, by sign": (thinly(torch.neg), ("fp32", "bf16"), "gradient"),
    "thin, zero": (thinly(torch.zeros_like), ("fp32", "bf16"), "gradient"),
    "thin, by length": (thinly(lambda gradient: 1.5 * gradient), ("fp32", "bf16"), "gradient"),
    "thin, by order": (thinly(lambda gradient: gradient.flip(-1)), ("fp32", "bf16"), "gradient"),
    "onednn, by sign": (linear(torch.neg), ("fp32",), "gradient"),
    "winograd, by sign": (wino(torch.neg), ("fp32",), "gradient"),
    "winograd, with a gradient alone": (convolved(lambda out: 0.3 * out), ("fp32",), "logits"),
    "fold": (folds, ("fp32",), "logits"),
    "backward beside a BatchNorm": (beside_the_norm, ("fp32", "bf16"), "gradient"),
    "layout": (views, ("fp32", "bf16"), "logits"),
    "precision": (coarsely, ("fp32",), "logits"),
    "scale": (scaled, ("fp16",), "gradient"),
}
