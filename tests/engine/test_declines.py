"""A frozen model answers as a plain call does where nothing is gained: by its net, or for few values."""

from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.engine import Plain
from tests.engine.nets import convnet, images
from tests.zoo import nets  # noqa: F401
from tests.zoo.net import ZOO


def test_a_frozen_model_that_gains_nothing_answers_as_a_plain_call() -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.rand(1000, 12), torch.arange(1000) % 4
    frozen, plain = fa.freeze(model), Plain(model)
    wrong = fa.freeze(model)
    with pytest.raises(RuntimeError, match="shapes"):  # a mistake of the caller's
        wrong(torch.rand(3, 11))
    assert wrong.notes == ()
    for _ in range(2):
        for one, other in zip(frozen.input_gradient(x, y), plain.input_gradient(x, y), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(frozen(x), plain(x))
        assert (frozen.forwards, frozen.backwards) == (plain.forwards, plain.backwards)
        with torch.no_grad():
            model[1].weight.data = torch.randn(4, 12)  # the next call sees it
        plain = Plain(model, counts=plain.counts)
    assert not frozen.searches(x)
    model.append(nn.BatchNorm1d(4))  # which is folded
    model.eval()
    frozen(x)
    assert "folded 1 BatchNorm" in frozen.notes


@pytest.mark.slow
def test_few_values_pass_as_in_a_plain_call() -> None:
    """In the precision that was asked for, with a plain call's counts, and for the model as it is now."""
    for precision in ("fp32", "bf16"):
        check_few(precision)


def check_few(precision: Any) -> None:
    (x, y), (few, labels), model = images(64), images(3), convnet().eval()
    frozen, plain, exact = fa.freeze(model, precision), Plain(model), precision == "fp32"
    directions = torch.eye(5).expand(3, 5, 5)
    for _ in range(2):  # before and after the copy was compared
        counts, wanted = (frozen.forwards, frozen.backwards), plain.input_gradient(few, labels)
        for one, other in zip(frozen.input_gradient(few, labels), wanted, strict=True):
            assert torch.equal(one, other) == exact
        if exact:
            assert (frozen.forwards - counts[0], frozen.backwards - counts[1]) == (3, 3)
            assert torch.equal(frozen(few), plain(few))
            assert torch.equal(frozen.jacobian(few, directions)[1], plain.jacobian(few, directions)[1])
        frozen.input_gradient(x, y)
        assert frozen.search_dtype == (torch.float32 if exact else torch.bfloat16)
        assert frozen.prepared
        assert "folded 2 BatchNorm" in frozen.notes
    with torch.no_grad():
        model[0].weight.mul_(-1)
    assert torch.equal(frozen.verdict(few), model(few).detach())
    assert torch.equal(frozen(few), model(few).detach())


@pytest.mark.slow
def test_few_values_are_compared_before_the_attacks_too() -> None:
    """So that what an attack passes does not depend on how many samples a batch has."""
    torch.manual_seed(0)
    parts = nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10)
    model, data = nn.Sequential(*parts).eval(), fa.data.load("digits", "test", limit=200)
    samples, asked = (data.x, model(data.x).argmax(1)), {"threat": fa.Linf(0.1), "indicators": False}
    passes = {
        fa.evaluate(fa.freeze(model), samples, ["fgsm"], batch_size=size, **asked).rows[0].forwards
        for size in (50, 200)
    }
    assert len(passes) == 1


def test_the_few_that_are_left_of_many_pass_in_the_layout_of_the_model(monkeypatch) -> None:
    net = ZOO["patches_by_view"]
    x, y = net.images(16)
    monkeypatch.setattr("fastadv.engine.frozen.FEW", x[:4].numel())
    frozen, plain = fa.freeze(net.build()), Plain(net.build())
    frozen.layout(x)
    few = frozen.layout(x)[:3]
    assert not few.is_contiguous()
    torch.testing.assert_close(frozen.input_gradient(few, y[:3]), plain.input_gradient(x[:3], y[:3]))
    assert torch.equal(frozen(few), plain(x[:3]))
    assert not any("fell back" in note for note in frozen.notes)
