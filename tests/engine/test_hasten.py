"""Layers done otherwise give what the library gives, forwards and backwards; the caller keeps his own."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import hasten as hasten_module
from fastadv.engine.hasten import CoveringConv2d, FastELU, fast_elu, fast_relu, hasten


@pytest.fixture(autouse=True)
def _small_ones_too(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "as_they_are" not in request.node.name:
        monkeypatch.setattr(hasten_module, "LEAST", 0)


def test_small_activations_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = []
    for name, own in (("elu", F.elu), ("relu_slope", lambda gradient, value: gradient * (value > 0))):
        monkeypatch.setattr(
            hasten_module, name, lambda *given, name=name, own=own: passed.append(name) or own(*given)
        )
    for rows in (1, 2):
        x = torch.randn(rows, hasten_module.LEAST // 2, requires_grad=True)
        (fast_elu(x) + fast_relu(x)).sum().backward()
    assert passed == ["elu", "relu_slope"]


class Functional(nn.Module):
    """ELU as a function, a convolution that covers what is left of the image, and a BatchNorm."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alpha, self.inplace = alpha, inplace
        self.first, self.norm = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 4, (4, 3), stride=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.elu(self.norm(self.first(x)), self.alpha, inplace=self.inplace)
        return self.last(hidden).flatten(1)


def answers(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), y, reduction="sum"), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize(
    ("alpha", "inplace"), [(1.0, False), (0.3, False), (1.0, True), (-0.5, False), (0.0, False)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_search_twin_gives_what_the_model_gives(alpha: float, inplace: bool, dtype: torch.dtype) -> None:
    model = Functional(alpha, inplace).to(dtype).eval()
    x, y = torch.randn(5, 3, 9, 7, dtype=dtype), torch.arange(5) % 4
    frozen = fa.freeze(model)
    logits, gradient = answers(model, x, y)
    tight = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(frozen(x), logits, **tight)
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], gradient, rtol=1e-4, atol=1e-7)
    rows = frozen.jacobian(x, torch.eye(4, dtype=dtype).expand(5, 4, 4))[1]
    for k in range(4):
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(rows[:, k], torch.autograd.grad(model(leaf)[:, k].sum(), leaf)[0], **tight)
    assert "fast activations" in frozen.notes
    assert not any("fell back" in note for note in frozen.notes)
    assert type(model.last) is nn.Conv2d


@pytest.mark.parametrize(("precision", "shift", "tight"), [("fp32", -30.0, 1e-4), ("bf16", -12.0, 0.1)])
def test_units_far_below_zero_keep_their_gradient(precision: Any, shift: float, tight: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ELU(), nn.BatchNorm1d(16), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[0].bias += shift
    x, y = torch.rand(5, 6), torch.arange(5) % 4
    frozen = fa.freeze(model, precision)
    own = frozen.input_gradient(x, y)[2].double()
    assert "fast activations" in frozen.notes
    _, exact = answers(copy.deepcopy(model).double(), x.double(), y)
    assert (own - exact).norm() < tight * exact.norm()


class Unusual(nn.Module):
    """Writes into the result of an activation, and steps along a gradient of its own; no trace follows it."""

    def __init__(self, activation: nn.Module, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, channels, 3, stride=1), activation)
        self.last = nn.Linear(16 * channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            (away,) = torch.autograd.grad(self.first(leaf).square().sum(), leaf, create_graph=True)
        hidden = self.first(x - 0.1 * away)
        # torch allows to write into the result of an ELU, and not into that of a ReLU
        hidden = hidden.add_(1.0) if isinstance(self.first[1], nn.ELU) else hidden + 1.0
        return self.last(hidden.flatten(1))


@pytest.mark.parametrize(
    "activation", [nn.ELU(), nn.ReLU(), nn.ReLU(inplace=True)], ids=["elu", "relu", "inplace"]
)
@pytest.mark.parametrize("channels", [4, 24])
def test_models_that_write_and_differentiate_as_they_may_with_torchs(
    activation: nn.Module, channels: int
) -> None:
    model, x, y = Unusual(activation, channels).eval(), torch.rand(5, 3, 6, 6), torch.arange(5) % 4
    frozen = fa.freeze(model)
    gradient = frozen.input_gradient(x, y)[2]
    assert "fast activations" in frozen.notes
    assert ("thin input convolution" in frozen.notes) == (channels == 24)
    torch.testing.assert_close(gradient, answers(model, x, y)[1], rtol=1e-4, atol=1e-5)


def test_who_has_it_and_who_not(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    monkeypatch.setattr(hasten_module, "elu", lambda x, alpha: passes.append(alpha) or F.elu(x, alpha))
    x = torch.rand(5, 3, 9, 7)
    frozen = fa.freeze(Functional(-0.5).eval())  # traced
    frozen(x)
    assert passes == [-0.5] * 2  # one of them compares
    layers = nn.Sequential(Functional().first, nn.ELU(torch.tensor(0.25)), nn.Flatten()).eval()
    fa.freeze(layers)(x)
    assert passes[2:] == [0.25] * 2
    fa.freeze(layers, fold=False)(x)
    frozen.verdict(x)
    assert len(passes) == 4
    monkeypatch.setattr(torch, "compile", lambda model: model)
    assert "fast activations" not in fa.freeze(layers, compile=True).notes  # the compiler has its own


def test_in_bfloat16_it_is_as_near_as_the_library() -> None:
    model = Functional().eval()
    x, y = torch.randn(64, 3, 9, 7), torch.arange(64) % 4
    _, exact = answers(model, x, y)
    own = fa.freeze(model, "bf16").input_gradient(x, y)[2]
    theirs = answers(copy.deepcopy(model).bfloat16(), x.bfloat16(), y)[1]
    assert (own - exact).norm() < 1.2 * (theirs.float() - exact).norm()


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(4, 3), (5, 3), (4, 6), (9, 8)])
def test_a_convolution_whatever_the_image(
    format: torch.memory_format, bias: bool, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 5, (4, 3), stride=2, bias=bias).to(memory_format=format))
    own = copy.deepcopy(plain)
    assert hasten(own, exactly=False) == 0
    assert type(own[0]) is CoveringConv2d
    x = torch.randn(3, 6, *size).contiguous(memory_format=format).requires_grad_()
    out, expected = own(x), plain(x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    back = torch.randn_like(expected)
    gradients = [torch.autograd.grad(result, x, back)[0] for result in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own(x[0].detach()), plain(x[0].detach()))  # an image without a batch


def test_only_what_is_the_same() -> None:
    kept = [
        nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding="same"), nn.ConvTranspose2d(4, 4, 3),
        nn.CELU(),
    ]  # fmt: skip
    hasten(nn.Sequential(*kept), exactly=False)
    assert not any(isinstance(part, CoveringConv2d | FastELU) for part in kept)
    assert hasten(nn.Sequential(nn.ELU(), nn.Linear(2, 2)), exactly=False) == 1
    assert hasten(nn.Sequential(nn.ELU()), exactly=False) == 0  # nothing tells its device


def test_elu_at_its_ends() -> None:
    x = torch.tensor([[-torch.inf, -200.0, -88.0, -1e-30, -0.0, 0.0, 1e-30, 3e38, torch.inf, torch.nan]])
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float16):
        torch.testing.assert_close(fast_elu(x.to(dtype)), F.elu(x.to(dtype)), equal_nan=True)
    line = torch.randn(7)
    assert torch.equal(fast_elu(line), F.elu(line))
    for given in (line, torch.randn(4, 7)):
        expected = F.elu(given, 0.5)
        assert FastELU(0.5, inplace=True)(given) is given
        assert torch.equal(given, expected)
    assert torch.equal(fast_elu(torch.ones(2, 2), torch.inf), torch.ones(2, 2))


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


@pytest.mark.parametrize("fold", [True, False])
def test_relu_in_all_its_forms(fold: bool) -> None:
    model = Relu().eval()
    x, y = torch.randn(5, 3, 6, 7), torch.arange(5) % 4
    frozen = fa.freeze(model, fold=fold)
    assert "fast activations" in frozen.notes
    logits, gradient = answers(model, x, y)
    assert torch.equal(frozen.verdict(x), logits)
    torch.testing.assert_close(frozen(x), logits, rtol=1e-5, atol=1e-6)
    found = frozen.input_gradient(x, y)[2]
    if fold:
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-7)
    else:
        assert torch.equal(found, frozen.input_gradient(x, y)[2])
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-8)
    assert type(model.layer) is nn.ReLU


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inplace", [True, False])
def test_relu_and_its_derivative_to_the_bit(dtype: torch.dtype, inplace: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(3, 5, 7, 4, generator=draw).to(dtype)
    values[0, 0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    back = torch.randn(values.shape, generator=draw).to(dtype)
    back[0, 0, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    found = []
    for relu in (fast_relu, F.relu):
        for format in (torch.contiguous_format, torch.channels_last):
            leaf = values.clone(memory_format=format).requires_grad_()
            given = leaf * 1
            out = relu(given, inplace=inplace)
            assert (given.data_ptr() == out.data_ptr()) == inplace
            found.append((out.detach(), torch.autograd.grad(out, leaf, back)[0]))
    for out, gradient in found[1:]:
        torch.testing.assert_close(out, found[0][0], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(gradient, found[0][1], rtol=0, atol=0, equal_nan=True)


def test_relu_without_a_gradient_on_a_view_and_of_other_kinds() -> None:
    x = torch.randn(4, 6)
    assert torch.equal(fast_relu(x), x.relu())
    for given in (x.double(), x.half(), x[0]):
        leaf = given.clone().requires_grad_()
        (found,) = torch.autograd.grad(fast_relu(leaf).sum(), leaf)
        assert torch.equal(found, (given > 0).to(given))
    leaf = x.clone().requires_grad_()
    base = leaf * 1
    fast_relu(base[:, :3], inplace=True)
    (found,) = torch.autograd.grad(base.sum(), leaf)
    assert torch.equal(found[:, :3], (x[:, :3] > 0).float())
    assert found[:, 3:].eq(1).all()
