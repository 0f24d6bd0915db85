"""Means over the passes of a randomized model, by the model as given, and the check of its search copy."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import Plain, freeze, prepare
from fastadv.losses import loss_and_grad
from tests.engine.nets import convnet
from tests.zoo.net import module

DRAW = torch.Generator().manual_seed(1)
X = torch.rand(5, 2, 3, generator=DRAW, dtype=torch.float64)
Y = torch.tensor([1, 2, 0, 1, 2])
WEIGHT = torch.randn(6, 3, generator=DRAW, dtype=torch.float64)
FACTORS = [0.5, -1.25, 3.0, 20.0]


class Turning:
    def __init__(self) -> None:
        self.passes = 0
        self.seen = Counter[str]()

    def __call__(self, x: Tensor) -> Tensor:
        factor = FACTORS[self.passes % len(FACTORS)]
        self.passes += 1
        self.seen.update(forward=len(x))
        if x.requires_grad:
            x.register_hook(lambda gradient: self.seen.update(backward=len(gradient)))
        return factor * (x.flatten(1) @ WEIGHT).sin()


def expected(eot: int, loss: str, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The means over the first `eot` passes, each by autograd."""
    means = [torch.zeros(()).double()] * 3
    for factor in FACTORS[:eot]:
        leaf = X.clone().requires_grad_()
        logits = factor * (leaf.flatten(1) @ WEIGHT).sin()
        value, by_logits = loss_and_grad(logits, Y, loss, targets)
        (gradient,) = torch.autograd.grad(logits, leaf, by_logits)
        parts = (value, logits.detach(), gradient)
        means = [mean + part / eot for mean, part in zip(means, parts, strict=True)]
    return means[0], means[1], means[2]


@pytest.mark.parametrize("direction", [False, True])
@pytest.mark.parametrize("targets", [None, (Y + 1) % 3], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("eot", [2, 4])
def test_means_over_the_passes(eot: int, loss: str, targets: Tensor | None, direction: bool) -> None:
    """`direction` must not scale the passes differently: with four, the last one decides by its size."""
    found = Plain(Turning(), eot).input_gradient(X, Y, loss, targets, direction)
    torch.testing.assert_close(found, expected(eot, loss, targets), rtol=1e-12, atol=1e-12)


def test_logits_are_means_and_the_verdict_is_one_pass() -> None:
    logits = (X.flatten(1) @ WEIGHT).sin()
    torch.testing.assert_close(Plain(Turning(), 4)(X), logits * sum(FACTORS) / 4, rtol=1e-12, atol=0)
    torch.testing.assert_close(Plain(Turning(), 4).verdict(X), logits * FACTORS[0], rtol=1e-12, atol=0)
    assert not Plain(Turning(), 2).exact
    assert Plain(Turning()).exact


def test_jacobian_of_the_mean_logits() -> None:
    plain, rows = Plain(Turning(), 3), torch.eye(3).expand(5, 3, 3)
    seen: list[Tensor] = []
    logits, gradients = plain.jacobian(X, lambda z: seen.append(z) or rows)  # type: ignore[func-returns-value]
    mean = sum(FACTORS[:3]) / 3
    torch.testing.assert_close(logits, mean * (X.flatten(1) @ WEIGHT).sin(), rtol=1e-12, atol=0)
    by_hand = mean * (X.flatten(1) @ WEIGHT).cos()[:, :, None] * WEIGHT.t()
    torch.testing.assert_close(gradients.flatten(2), by_hand, rtol=1e-12, atol=1e-14)
    assert torch.equal(seen[0], logits)


@pytest.mark.parametrize("eot", [1, 2, 5])
def test_counts(eot: int) -> None:
    for call, backward in (
        (lambda f: f(X), 0),
        (lambda f: f.input_gradient(X, Y), 5 * eot),
        (lambda f: f.jacobian(X, torch.ones(5, 4, 3)), 20 * eot),
        (lambda f: f(X.clone().requires_grad_()).sum().backward(), 5 * eot),
    ):
        model = Turning()
        plain = Plain(model, eot)
        call(plain)
        assert (plain.forwards, plain.backwards) == (5 * eot, backward)
        assert (model.seen["forward"], model.seen["backward"]) == (5 * eot, backward)


def test_of_several_passes_the_model_as_given_searches() -> None:
    frozen = freeze(convnet())
    assert prepare(frozen, 1) is frozen
    for model in (frozen, frozen.source):
        several = prepare(model, 3, freeze=True)
        assert (type(several), several.source, several.eot) == (Plain, frozen.source, 3)


def noisy() -> nn.Module:
    """A small network with BatchNorm that adds noise to its input also in eval mode."""
    return module(lambda self, x: self.net(x + torch.randn_like(x)), net=convnet())


IMAGES = torch.rand(20, 2, 8, 8, generator=DRAW)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("search_copy")
def test_what_draws_in_each_pass_is_searched_as_it_is(precision: str) -> None:
    frozen = freeze(noisy(), precision)
    torch.manual_seed(0)
    states = []
    for _ in range(2):  # the first is compared
        torch.manual_seed(1)
        frozen.input_gradient(IMAGES, torch.arange(20) % 5)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert frozen.exact
    assert "fell back to the model as given" in " ".join(frozen.notes)
