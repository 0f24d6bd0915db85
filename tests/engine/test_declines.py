"""A frozen model that has nothing to gain answers as a plain call does, and fails as a frozen one."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, prepare
from fastadv.engine.precision import Precision
from fastadv.engine.prepare import WORTH, WORTH_ON_GPU, gains
from tests.engine.nets import convnet, images
from tests.zoo import nets  # noqa: F401
from tests.zoo.net import ZOO


def test_a_frozen_model_that_gains_nothing_answers_as_a_plain_call() -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.rand(1000, 12), torch.arange(1000) % 4
    frozen, plain = fa.freeze(model), Plain(model)
    for _ in range(2):
        for one, other in zip(frozen.input_gradient(x, y), plain.input_gradient(x, y), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(frozen(x), plain(x))
        assert (frozen.forwards, frozen.backwards) == (plain.forwards, plain.backwards)
        with torch.no_grad():
            model[1].weight.data = torch.randn(4, 12)  # the next call sees it
        plain = Plain(model, counts=plain.counts)
    model.append(nn.BatchNorm1d(4))  # which is folded
    model.eval()
    frozen(x)
    assert "folded 1 BatchNorm" in frozen.notes


def test_a_callers_mistake_is_no_failure_of_the_model() -> None:
    frozen, x, y = (
        fa.freeze(nn.Sequential(nn.Flatten(), nn.Linear(12, 4))),
        torch.rand(3, 12),
        torch.tensor([0, 1, 2]),
    )
    for _ in range(2):
        with pytest.raises(RuntimeError, match="shapes"):
            frozen(torch.rand(3, 11))
    assert frozen.notes == ()
    frozen.input_gradient(x, y)
    assert not frozen.searches(x)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_few_values_pass_as_in_a_plain_call(precision: Precision) -> None:
    """In the precision that was asked for, with a plain call's counts, and for the model as it is now."""
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
        else:
            assert frozen.search.weights == torch.bfloat16
        frozen.input_gradient(x, y)
        assert frozen.settled
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
    samples = data.x, model(data.x).argmax(1)
    rows = [
        fa.evaluate(
            fa.freeze(model), samples, ["fgsm"], threat=fa.Linf(0.1), batch_size=size, indicators=False
        ).rows
        for size in (50, 200)
    ]
    assert rows[0][0].forwards == rows[1][0].forwards


class Darkening(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        x -= 0.4
        return super().forward(x)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [fa.attacks.fgsm, fa.attacks.pgd, fa.attacks.apgd])
@pytest.mark.parametrize("count", [3, 43])  # by a plain call, and by the search copy
def test_the_first_pass_of_a_search_does_not_write_into_x(attack, count) -> None:
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    model, x = Darkening(*parts).eval(), torch.rand(count, 3, 8, 8)
    before, frozen = x.clone(), fa.freeze(model)
    out = attack(frozen, x, model(x.clone()).argmax(1), fa.Linf(0.02))
    assert torch.equal(x, before)
    assert fa.Linf(0.02).contains(out.x_adv, before).all()
    assert "given copies of x, into which the model writes" in frozen.notes


def test_what_lies_on_a_gpu_freezes_by_itself_for_more_work() -> None:
    model, there, linear = convnet().eval(), convnet().to("meta").eval(), nn.Sequential(nn.Linear(4, 4))
    bare = nn.Conv2d(2, 4, 3)
    bare.weight = None  # type: ignore[assignment]
    bare.bias = None
    for net, least in ((model, WORTH), (bare, WORTH), (there, WORTH_ON_GPU)):
        assert not gains(net, least - 1)
        assert gains(net, least)
    assert not gains(linear, WORTH_ON_GPU)
    for net, work, frozen in (
        (model, WORTH, True), (model, WORTH - 1, False), (there, WORTH, False), (there, WORTH_ON_GPU, True),
    ):  # fmt: skip
        assert isinstance(prepare(net, work=work), fa.Frozen if frozen else Plain)
    assert isinstance(prepare(there, freeze=True), fa.Frozen)
    assert isinstance(prepare(there, work=WORTH_ON_GPU, freeze=False), Plain)


def test_the_few_that_are_left_of_many_pass_in_the_layout_of_the_model(monkeypatch) -> None:
    net = ZOO["patches_by_view"]
    x, y = net.images(16)
    monkeypatch.setattr("fastadv.engine.frozen.FEW", x[:4].numel())
    frozen, plain = fa.freeze(net.build()), Plain(net.build())
    frozen.settle(x)
    few = frozen.layout(x)[:3]
    assert not few.is_contiguous()
    torch.testing.assert_close(frozen.input_gradient(few, y[:3]), plain.input_gradient(x[:3], y[:3]))
    assert torch.equal(frozen(few), plain(x[:3]))
    assert not any("fell back" in note for note in frozen.notes)
