"""Activations done otherwise give what the library gives, forwards and backwards."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine.cpu import activations
from fastadv.engine.cpu.activations import ELU, RELU
from tests.engine.rewritten import Seen, answers

NOTE = "fast activations"
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def _small_ones_too(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "as_they_are" not in request.node.name:
        monkeypatch.setattr(activations, "LEAST", 0)


def test_small_activations_are_left_as_they_are() -> None:
    both = Seen(lambda x: F.elu(x) + F.relu(x), ELU, RELU)
    for rows, used in ((1, []), (2, ["elu", "relu"])):
        both(torch.randn(2, rows * activations.LEAST // 4, requires_grad=True))
        assert both.used == used


@pytest.mark.parametrize(("precision", "shift", "tight"), [("fp32", -30.0, 1e-4), ("bf16", -12.0, 0.1)])
def test_units_far_below_zero_keep_their_gradient(precision: Any, shift: float, tight: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ELU(), nn.BatchNorm1d(16), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[0].bias += shift
    x, y = torch.rand(5, 6), torch.arange(5) % 4
    frozen = fa.freeze(model, precision)
    own = frozen.input_gradient(x, y)[2].double()
    assert NOTE in frozen.notes
    _, exact = answers(copy.deepcopy(model).double(), x.double(), y)
    assert (own - exact).norm() < tight * exact.norm()


def test_a_relu_in_place_is_followed_where_its_result_is_not_read() -> None:
    def run(x: Tensor) -> Tensor:
        F.relu(x, inplace=True)
        return x

    seen, leaf = Seen(lambda x: run(2.0 * x), RELU), torch.randn(4, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(seen(leaf).sum(), leaf)
    assert seen.used == ["relu"]
    assert torch.equal(gradient, 2.0 * (leaf > 0))


def test_the_result_of_an_elu_may_be_written() -> None:
    seen, leaf = Seen(F.elu, ELU), torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(seen(leaf).add_(1.0).square().sum(), leaf)
    (expected,) = torch.autograd.grad((F.elu(leaf) + 1.0).square().sum(), leaf)
    assert seen.used == ["elu"]
    torch.testing.assert_close(gradient, expected)


def test_elu_at_its_ends() -> None:
    seen = Seen(F.elu, ELU)
    x = torch.tensor([[-torch.inf, -200.0, -88.0, -1e-30, -0.0, 0.0, 1e-30, 3e38, torch.inf, torch.nan]])
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float16):
        torch.testing.assert_close(seen(x.to(dtype)), F.elu(x.to(dtype)), equal_nan=True)
        assert bool(seen.used) == (dtype in activations.DTYPES)
    line = torch.randn(7)
    assert torch.equal(seen(line), F.elu(line))
    for given in (line, torch.randn(4, 7)):
        expected = F.elu(given, 0.5)
        assert seen(given, 0.5, inplace=True) is given
        assert torch.equal(given, expected)
    assert torch.equal(seen(torch.ones(2, 2), torch.inf), torch.ones(2, 2))
    assert seen.used == []
    torch.testing.assert_close(
        seen(torch.full((2, 2), -1.0), alpha=0.5), F.elu(torch.full((2, 2), -1.0), 0.5)
    )
    assert seen.used == ["elu"]
    assert Seen(nn.CELU(), ELU)(torch.randn(3, 4)).shape == (3, 4)


class Relu(nn.Module):
    """ReLU as a layer, a function and a method, in place and not, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))
        self.norm, self.layer, self.inplace = nn.BatchNorm2d(3), nn.ReLU(), nn.ReLU(inplace=True)
        self.last = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        ways = (self.layer, self.inplace, F.relu, torch.relu, lambda x: x.relu())
        for convolution, relu in zip(self.convolutions, ways, strict=True):
            x = x + relu(self.norm(convolution(x)))
        x = F.relu(x, inplace=True)
        logits: Tensor = self.last(x.mean((2, 3)))
        return logits


def test_each_form_of_relu_is_rewritten() -> None:
    model, x = Relu().eval().requires_grad_(False), torch.randn(5, 3, 6, 7)
    seen = Seen(model, RELU)
    _, gradient = answers(seen, x, torch.arange(5) % 4)
    assert seen.used == ["relu"] * 6
    assert torch.equal(gradient, answers(model, x, torch.arange(5) % 4)[1])
    with torch.no_grad():
        seen(x)
    assert seen.used == []


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("after", ["mean", "sum of a slice", "flatten", "transpose"])
@pytest.mark.parametrize("format", FORMATS)
def test_the_gradient_lies_in_memory_as_torchs(
    format: torch.memory_format, after: str, inplace: bool
) -> None:
    """What runs backwards next may be another kernel in another layout, and round otherwise."""
    head = {
        "mean": lambda out: out.mean((2, 3)),
        "sum of a slice": lambda out: out[:, :, 1:].sum(2),
        "flatten": lambda out: out.flatten(1),
        "transpose": lambda out: out.transpose(1, 3).contiguous(),
    }[after]
    values, found = torch.randn(3, 5, 7, 4).contiguous(memory_format=format), []
    for relu in (Seen(F.relu, RELU), F.relu):
        leaf, reached = values.clone().requires_grad_(), []
        given = leaf * 1
        given.register_hook(lambda gradient, reached=reached: reached.append(gradient))
        out = relu(given, inplace=inplace)
        assert (given.data_ptr() == out.data_ptr()) == inplace
        made = head(out)
        weights = torch.arange(float(made.numel())).view(made.shape).cos()
        (gradient,) = torch.autograd.grad(made, leaf, weights)
        assert len(reached) == 1
        found.append((reached[0].stride(), gradient.stride(), reached[0].detach()))
    assert found[0][:2] == found[1][:2]
    assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 1:3],
        lambda x: x.transpose(1, 2)[:, :, ::2],
        lambda x: x.view_as(x),
        lambda x: x.diagonal(dim1=2, dim2=3),
    ],
    ids=["slice", "strides", "alias", "diagonal"],
)
def test_relu_of_a_view(view: Any, inplace: bool, format: torch.memory_format) -> None:
    """In place it writes into what is seen through other views, made before and after."""
    values, found = torch.randn(3, 4, 6, 6).contiguous(memory_format=format), []
    seen = Seen(F.relu, RELU)
    for relu in (seen, F.relu):
        leaf = values.clone().requires_grad_()
        base = leaf * 1
        before = base[:, :2]
        out = relu(view(base), inplace=inplace)
        made = out.square().sum() + before.exp().sum() + base[:, 1:].cos().sum()
        (gradient,) = torch.autograd.grad(made, leaf)
        found.append((base.detach(), gradient, gradient.stride()))
    assert seen.used == ["relu"]
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_relu_without_a_gradient_and_of_other_kinds() -> None:
    seen, x = Seen(F.relu, RELU), torch.randn(4, 6)
    assert torch.equal(seen(x), x.relu())
    for given in (x.double(), x.half(), x[0]):
        leaf = given.clone().requires_grad_()
        (found,) = torch.autograd.grad(seen(leaf).sum(), leaf)
        assert torch.equal(found, (given > 0).to(given))
        assert seen.used == []
