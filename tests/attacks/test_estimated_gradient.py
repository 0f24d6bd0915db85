"""Gradients by central differences: their values, their price, and attacks that use them."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.estimated_gradient import estimated_gradient
from fastadv.errors import InputError
from fastadv.models import Binarized

from .nets import Counted, convnet, images, linear, mlp, threat

X = images(5)
Y = torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize("step", [1e-3, 0.3, 5.0])
@pytest.mark.parametrize("batch_size", [None, 3, 10_000])
def test_it_is_the_gradient_of_a_linear_model(batch_size: int | None, step: float) -> None:
    """For any step, also where the box cuts a move short."""
    model, x = linear().double(), X.clone()
    x[0, 0, 0] = torch.tensor([0.0, 1.0, 1e-4, 1 - 1e-4], dtype=torch.float64)
    frozen = fa.freeze(estimated_gradient(model, step, batch_size=batch_size))
    for loss, targets in (("ce", None), ("dlr", (Y + 1) % 3)):
        found = frozen.input_gradient(x, Y, loss, targets)
        for actual, expected in zip(found, fa.freeze(model).input_gradient(x, Y, loss, targets), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("box", [(0.0, 1.0), (0.2, 0.8), (-1.0, 3.0)])
def test_differences_one_by_one(box: tuple[float, float]) -> None:
    """Against a loop over coordinates, on a model whose differences depend on the step and on the box."""
    model, step, x = mlp(), 0.15, X.clamp(*box)
    x[0, 0, 0, :2] = torch.tensor(box)
    by_coordinate = torch.zeros(5, 16, 3, dtype=torch.float64)
    for i in range(16):
        up, down = x.flatten(1).clone(), x.flatten(1).clone()
        up[:, i] = (up[:, i] + step).clamp(*box)
        down[:, i] = (down[:, i] - step).clamp(*box)
        difference = (model(up) - model(down)).detach()
        by_coordinate[:, i] = difference / (up[:, i] - down[:, i])[:, None]
    estimate = estimated_gradient(model, step, box=box)
    torch.testing.assert_close(estimate.jacobian(x), by_coordinate, rtol=1e-12, atol=1e-14)
    rows = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits, gradients = fa.freeze(estimate).jacobian(x, rows)
    expected = torch.einsum("bck,bdk->bcd", rows, by_coordinate).view(5, 4, 1, 4, 4)
    torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(logits, model(x).detach())


class Cut(nn.Module):
    """A network that no gradient passes, by one of the means that real ones have."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = mlp(), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                return self.net(x)
        if self.how == "detach":
            return self.net(x.detach())
        if self.how == "inner optimization":
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                (torch.autograd.grad(self.net(leaf).sum(), leaf))
        return self.net((x * 255).long().double() / 255)


@pytest.mark.parametrize("how", ["no_grad", "detach", "rounding", "inner optimization"])
def test_models_that_cut_the_graph(how: str) -> None:
    model = Cut(how)
    with pytest.raises(InputError, match="cuts the graph"):
        fa.freeze(model).input_gradient(X, Y)
    found = fa.freeze(estimated_gradient(model, 0.01)).input_gradient(X, Y)[2]
    exact = fa.freeze(model.net).input_gradient(X, Y)[2]
    assert (found - exact).norm() < (
        0.3 if how in ("rounding", "inner optimization") else 0.01
    ) * exact.norm()


@pytest.mark.parametrize("name", ["bim", "pgd", "mim"])
def test_attacks_break_what_cuts_the_graph(name: str) -> None:
    model = Cut("rounding")
    y = model(X).argmax(1)
    ball = threat("linf", 2)
    attack = getattr(fa.attacks, name)
    out = attack(estimated_gradient(model, 0.05), X, y, ball, steps=10)
    direct = attack(model.net, X, y, ball, steps=10)
    assert out.success.sum() >= direct.success.sum() - 1 >= 2
    assert torch.equal(model(out.x_adv).argmax(1) != y, out.success)
    assert ball.contains(out.x_adv, X).all()


def test_a_step_across_the_threshold_of_a_binarized_model() -> None:
    """The differences are those between a black and a white pixel, over the distance moved."""
    net, wide = mlp(), estimated_gradient(Binarized(mlp(), 0.5), 0.6)
    by_coordinate = wide.jacobian(X)
    for i in range(16):
        white, black = X.ge(0.5).double().flatten(1), X.ge(0.5).double().flatten(1)
        white[:, i], black[:, i] = 1.0, 0.0
        own = X.flatten(1)[:, i]
        moved = (own + 0.6).clamp(max=1) - (own - 0.6).clamp(min=0)
        expected = (net(white) - net(black)).detach() / moved[:, None]
        torch.testing.assert_close(by_coordinate[:, i], expected)
    assert wide.input_threshold == fa.freeze(wide).input_threshold == 0.5
    step = 1e-6
    narrow = fa.freeze(estimated_gradient(Binarized(mlp(), 0.5), step))
    # two rows of one batch may be rounded apart: each of the products of a logit by half of eps, over the
    # distance moved, in the one direction or the other of two logits
    first, last = net[1], net[3]
    size = last.weight.abs() @ (first.weight.abs().sum(1) + first.bias.abs()) + last.bias.abs()
    rounding = torch.finfo(torch.float64).eps * (16 + 12 + 2) * size.max().item() / step
    assert (narrow.input_gradient(X, Y)[2].abs() <= 2 * rounding).all()
    assert 2 * rounding < 1e-6


def test_what_cannot_move_has_no_derivative() -> None:
    """Both probes of a value far outside the box are clipped to the same edge."""
    x = torch.full((2, 1, 4, 4), 3.0, dtype=torch.float64)
    assert (estimated_gradient(mlp(), 0.5).jacobian(x) == 0).all()


@pytest.mark.parametrize("eot", [1, 3])
def test_probes_are_counted_and_shared(eot: int) -> None:
    """A call of the model for x and 2 D for its derivatives, whatever the number of functions."""
    seen = Counter[str]()
    model = Counted(mlp(), lambda n: seen.update(forward=n), lambda n: None)
    frozen = fa.freeze(estimated_gradient(model, 0.1), eot=eot)
    for call, forward, backward in (
        (lambda: frozen(X), 5, 0),
        (lambda: frozen.input_gradient(X, Y), 5 * 33, 5),
        (lambda: frozen.jacobian(X, torch.eye(3).expand(5, 3, 3)), 5 * 33, 15),
        (lambda: frozen.jacobian(X, torch.ones(5, 0, 3)), 5, 0),
    ):
        frozen.forwards = frozen.backwards = 0
        seen.clear()
        call()
        assert (frozen.forwards, frozen.backwards) == (eot * forward, eot * backward)
        assert seen["forward"] == eot * forward
    frozen.forwards = 0
    frozen.verdict(X)
    assert frozen.forwards == 5


def test_every_batch_of_probes_is_full_and_none_is_larger() -> None:
    sizes: list[int] = []
    model = Counted(mlp(), sizes.append, lambda n: None)
    for batch_size, expected in ((40, [40] * 4), (64, [64, 64, 32]), (3, [2] * 80), (1000, [160])):
        sizes.clear()
        estimated_gradient(model, 0.1, batch_size=batch_size).jacobian(X)
        assert sizes == expected


def test_a_sample_does_not_depend_on_its_batch_and_nan_spoils_no_other() -> None:
    frozen = fa.freeze(estimated_gradient(mlp(), 0.1, batch_size=22))
    whole = frozen.input_gradient(X, Y)[2]
    spoiled = X.clone()
    spoiled[1, 0, 2, 2] = torch.nan
    order = torch.tensor([4, 1, 0])
    part = frozen.input_gradient(spoiled[order], Y[order])[2]
    torch.testing.assert_close(part[[0, 2]], whole[[4, 0]], rtol=1e-12, atol=1e-13)
    assert part[1].isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_the_search_copy_is_folded_and_the_model_left_alone(
    compile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compile:
        monkeypatch.setattr(torch, "compile", lambda model: torch._dynamo.optimize("eager")(model))
    net = convnet()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    estimate = estimated_gradient(net, 1e-3, box=(-1, 2))
    x, y = images(4, (2, 8, 8), dtype=torch.float32), torch.arange(4)
    frozen = fa.freeze(estimate, compile=compile)
    gradient = frozen.input_gradient(x, y)[2]
    assert ("folded 2 BatchNorm" in frozen.notes) == (not compile)  # the compiler joins them itself
    assert not any("fell back" in note for note in frozen.notes)
    exact = fa.freeze(net).input_gradient(x, y)[2]
    assert (gradient - exact).norm() < 0.02 * exact.norm()
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert estimate.gradient_probes == 0


def test_a_search_in_bfloat16_falls_back_visibly() -> None:
    frozen = fa.freeze(estimated_gradient(convnet(), 1e-3, box=(-1, 2)), "bf16")
    x, y = images(4, (2, 8, 8), dtype=torch.float32), torch.arange(4)
    exact = fa.freeze(convnet()).input_gradient(x, y)[2]
    assert (frozen.input_gradient(x, y)[2] - exact).norm() < 0.02 * exact.norm()
    assert "fell back" in frozen.notes[-1]
    frozen.forwards = 0
    frozen.input_gradient(x, y)
    assert frozen.forwards == 4 * (1 + 2 * 128)
    with pytest.raises(InputError, match=r"float32 or float64, got torch\.bfloat16"):
        fa.freeze(estimated_gradient(linear().bfloat16(), 0.1)).verdict(x)


def test_functions_bound_methods_and_frozen_models() -> None:
    net = mlp()
    expected = fa.freeze(estimated_gradient(net, 0.1)).input_gradient(X, Y)[2]
    given: list[Any] = [net.forward, lambda x: net(x), fa.freeze(net, eot=2)]
    for model in given:
        assert torch.equal(fa.freeze(estimated_gradient(model, 0.1)).input_gradient(X, Y)[2], expected)
    dropping = nn.Sequential(nn.Dropout(0.5), net).train()
    as_given = fa.freeze(estimated_gradient(lambda x: dropping(x), 0.1))
    assert not torch.equal(as_given.verdict(X), as_given.verdict(X))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("step: expected a number > 0", {"step": 0}),
        ("step: expected a finite number", {"step": float("nan")}),
        ("step: expected a finite number", {"step": -0.1}),
        ("step: expected a finite number", {"step": float("inf")}),
        ("batch_size: expected an integer >= 2", {"batch_size": 1}),
        ("batch_size: expected an integer >= 2", {"batch_size": 2.0}),
        ("box: expected a pair", {"box": (1, 0)}),
        ("model: expected a module or a function", {"model": 3}),
    ],
)
def test_bad_arguments(message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        estimated_gradient(**{"model": mlp(), "step": 0.1, **arguments})


def test_replays_would_not_count_probes() -> None:
    with pytest.raises(InputError, match="got one that estimates them"):
        fa.freeze(estimated_gradient(mlp(), 0.1), cuda_graph=True)
