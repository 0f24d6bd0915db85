"""symptoms: a model for each, models with none, and nothing left behind."""

import random
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad as imported_grad

from fastadv.attacks.masking.symptoms import symptoms
from fastadv.engine import Plain, freeze, prepare
from tests.attacks.contract.unchanged import unchanged
from tests.attacks.nets import explained
from tests.defenses import Defended, Pointwise
from tests.engine.planted import Changed

Change = Callable[[Tensor], Tensor]
X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ELU(), nn.Flatten(), nn.Linear(144, 3))
    return layers.eval()


def changed(before: Change | None = None, after: Change | None = None) -> nn.Module:
    return Defended(net(), before=before and Pointwise(before), after=after and Pointwise(after)).eval()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}])
def test_none_for_an_ordinary_network(options: dict[str, Any]) -> None:
    assert symptoms(freeze(net(), **options), X) == ()
    assert symptoms(freeze(net(), **options), X[:1]) == ()
    assert symptoms(freeze(net().double(), **options), X) == ()


NOISE: dict[str, Change] = {
    "torch": lambda x: x + 0.1 * torch.randn_like(x),
    "python": lambda x: x * (1 + 0.1 * random.random()),
    "numpy": lambda x: x + 0.1 * torch.as_tensor(np.random.rand(*x.shape)).to(x),
    "dropout": lambda x: nn.functional.dropout(x, 0.1),
    "gradient": lambda x: Changed.apply(x, lambda grad: grad + grad.std() * torch.randn_like(grad)),
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
@pytest.mark.parametrize("eot", [1, 3])
def test_randomized(noise: Change, eot: int) -> None:
    assert symptoms(prepare(changed(noise), eot, freeze=True), X) == ("randomized",)


@pytest.mark.parametrize(("level", "expected"), [(1e-6, False), (5e-4, True), (1e-2, True)])
def test_randomized_by_more_than_rounding(level: float, expected: bool) -> None:
    model = changed(after=lambda z: z + level * z.detach().std() * torch.randn_like(z))
    assert symptoms(freeze(model), X) == ("randomized",) * expected


def test_a_gradient_that_differs_for_one_sample_is_not_randomized() -> None:
    one = changed(lambda x: torch.cat([NOISE["gradient"](x[:1]), x[1:]]))
    assert symptoms(freeze(one), X) == ()


def test_sometimes_not_finite_is_randomized() -> None:
    calls = count()

    def sometimes(z: Tensor) -> Tensor:
        z[0] = torch.nan if next(calls) == 2 else z[0]
        return z

    assert "randomized" in symptoms(Plain(changed(after=sometimes)), X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_probabilities(dtype: torch.dtype) -> None:
    assert symptoms(freeze(changed(after=lambda z: (5 * z).softmax(1)).to(dtype)), X) == ("probabilities",)


NO_PROBABILITIES: dict[str, Change] = {
    "sum": lambda z: z.softmax(1) * 1.001,
    "negative": lambda z: z.softmax(1) - torch.tensor([0.5, -0.5, 0.0]),
    "log": lambda z: z.log_softmax(1),
    "one row": lambda z: z.softmax(1) * torch.tensor([1.0, 1, 1, 1, 1, 2])[:, None],
    "a shift of all logits": lambda z: z + torch.randn(len(z), 1),
}


@pytest.mark.parametrize("after", NO_PROBABILITIES.values(), ids=NO_PROBABILITIES)
def test_what_is_no_probability_and_not_randomized(after: Change) -> None:
    assert symptoms(freeze(changed(after=after)), X) == ()


def test_one_sample_without_a_gradient_is_enough() -> None:
    dark = X.clone()
    dark[:1] = 0
    for before in (lambda x: x * (x > 0.5).any((1, 2, 3), keepdim=True), lambda x: x.detach()):
        assert symptoms(freeze(changed(before)), dark) == ("zero_gradient",)


def test_confident_models_have_gradients() -> None:
    """Cross-entropy underflows, its direction does not."""
    frozen = freeze(changed(after=lambda z: 1e4 * z))
    y = frozen.verdict(X).argmax(1)
    assert (frozen.input_gradient(X, y)[2] == 0).flatten(1).all(1).any()
    assert symptoms(frozen, X) == ()


OPTIMIZING: dict[str, Callable[[Tensor, Tensor], object]] = {
    "Tensor.backward": lambda value, leaf: value.backward(),
    "autograd.backward": lambda value, leaf: torch.autograd.backward(value),
    "autograd.grad": torch.autograd.grad,
    "imported before": imported_grad,
    "torch.func": lambda value, leaf: torch.func.grad(lambda z: z.square().sum())(leaf.detach()),
    "nothing": lambda value, leaf: None,
}


@pytest.mark.slow
@pytest.mark.parametrize("how", OPTIMIZING)
def test_optimizing_inside_inference(how: str) -> None:
    def fitted(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            OPTIMIZING[how]((leaf * 2 - 1).square().sum(), leaf)
        return x

    expected = () if how == "nothing" else ("optimizes",)
    assert symptoms(freeze(changed(fitted)), X) == expected
    assert symptoms(freeze(lambda x: net()(fitted(x))), X) == expected


def test_abs_fits_latents_inside_inference() -> None:
    model, x, _ = explained()
    assert symptoms(freeze(model), x) == ("optimizes",)


@pytest.mark.parametrize("at", [0, 1, 6, 7])
def test_nothing_is_left_behind(at: int) -> None:
    """Also after an exception in the first pass, in the watched one, and in the one with a gradient."""
    calls = count(1)

    def raising(x: Tensor) -> Tensor:
        torch.rand(3), random.random(), np.random.rand()
        if 0 < at <= next(calls):
            raise RuntimeError("broken")
        return x

    model = changed(raising)
    with unchanged(model), pytest.raises(RuntimeError, match="broken") if at else nullcontext():
        symptoms(Plain(model), X)
    assert sys.getprofile() is None
