"""freeze: its options, its check of itself, and the gradient."""

import json

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import Frozen, freeze
from fastadv.errors import InputError


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3),
        nn.BatchNorm2d(8),
        nn.ELU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    net(torch.rand(32, 2, 8, 8))
    return net


X, Y = torch.rand(9, 2, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 5


def by_autograd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    return gradient


@pytest.mark.parametrize(
    ("precision", "fold"), [("fp32", True), ("fp32", False), ("bf16", True), ("bf16", False)]
)
def test_gradient(precision: str, fold: bool) -> None:
    model = convnet()
    frozen = freeze(model, precision, fold=fold)
    value, logits, gradient = frozen.input_gradient(X, Y)
    model.eval()
    exact = precision == "fp32"
    torch.testing.assert_close(logits, model(X).detach(), rtol=0, atol=1e-5 if exact else 0.02)
    torch.testing.assert_close(
        value,
        nn.functional.cross_entropy(model(X), Y, reduction="none").detach(),
        rtol=0,
        atol=1e-5 if exact else 0.02,
    )
    expected = by_autograd(model, X, Y)
    assert (gradient - expected).norm() <= (1e-5 if exact else 0.03) * expected.norm()
    assert gradient.dtype == logits.dtype == torch.float32
    assert not any("fell back" in note for note in frozen.notes)
    assert all(p.grad is None for p in model.parameters())
    assert not any(tensor.requires_grad for tensor in (value, logits, gradient))


def test_direction_is_a_positive_multiple() -> None:
    frozen = freeze(convnet())
    plain, scaled = (frozen.input_gradient(X, Y, direction=d)[2].flatten(1) for d in (False, True))
    torch.testing.assert_close(nn.functional.cosine_similarity(plain, scaled), torch.ones(9))


def test_channels_last_without_a_copy() -> None:
    frozen = freeze(convnet())
    x = frozen.layout(X)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert frozen.layout(x).data_ptr() == x.data_ptr()
    assert frozen.input_gradient(x, Y)[2].is_contiguous(memory_format=torch.channels_last)
    assert freeze(nn.Sequential(nn.Flatten(), nn.Linear(128, 5))).layout(X).is_contiguous()


class Viewing(nn.Module):
    """Flattens by view, which channels-last activations refuse."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.head = (
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.Linear(144, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.head(x.view(x.size(0), -1))


@pytest.mark.parametrize("norm", [True, False])
def test_models_that_view(norm: bool) -> None:
    model = Viewing(norm).eval()
    frozen = freeze(model, "bf16")
    assert (frozen(X) - model(X)).abs().max() < 0.05
    assert not frozen.exact
    assert frozen.layout(X).is_contiguous(memory_format=torch.channels_last) == norm


class Precise(nn.Module):
    """Lives in digits that bfloat16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 8)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv(x).flatten(1)
        return (logits * 1e4).sin() if logits.dtype == torch.float32 else (logits * 1e4).float().sin()


def test_falls_back_visibly(caplog: pytest.LogCaptureFixture) -> None:
    model = Precise()
    frozen = freeze(model, "bf16")
    assert not frozen.exact
    torch.testing.assert_close(frozen(X), model(X).detach())
    frozen.input_gradient(X, Y)
    assert frozen.exact
    assert "rounding allows" in frozen.notes[-1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_check_waits_for_a_finite_batch() -> None:
    model = convnet()
    frozen = freeze(model)
    frozen(torch.full_like(X, torch.nan))
    assert not frozen._checked
    frozen(X)
    assert frozen._checked


def test_counts() -> None:
    frozen = freeze(convnet(), fold=False)
    frozen(X)
    frozen.verdict(X[:2])
    frozen.input_gradient(X[:3], Y[:3])
    assert (frozen.forwards, frozen.backwards) == (14, 3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_grad_modes(mode: type) -> None:
    model = convnet()
    expected = freeze(model).input_gradient(X, Y)[2]
    with mode():
        frozen = freeze(model)
        torch.testing.assert_close(frozen.input_gradient(X * 1.0, Y + 0)[2], expected)
        assert torch.is_grad_enabled() is False


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_in_other_formats(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 5)).to(dtype)
    value, logits, gradient = freeze(model).input_gradient(X, Y)
    assert gradient.dtype == X.dtype
    assert logits.dtype == value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(logits, model(X.to(dtype)).to(logits.dtype).detach())


def test_functions_and_frozen() -> None:
    weight = torch.randn(128, 5)
    frozen = freeze(lambda x: x.flatten(1) @ weight)
    assert freeze(frozen) is frozen
    assert frozen.exact
    assert frozen.input_gradient(X, Y)[2].shape == X.shape


def test_losses_without_labels() -> None:
    frozen = freeze(convnet())
    by_target = frozen.input_gradient(X, None, targets=Y)[2]
    torch.testing.assert_close(by_target, frozen.input_gradient(X, (Y + 1) % 5, targets=Y)[2])
    assert frozen.input_gradient(X, None, lambda logits, y, targets: logits.pow(2).sum(1))[2].abs().sum() > 0
    with pytest.raises(InputError, match="labels or targets"):
        frozen.input_gradient(X, None)


BAD = {
    "two classes": lambda x: x.flatten(1)[:, :1],
    r"\[B, K\]": lambda x: x,
    "floating": lambda x: x.flatten(1).long(),
    "got tuple": lambda x: (x.flatten(1),),
    "got torch.float32 \\(4,": lambda x: x.flatten(1)[:4],
}


@pytest.mark.parametrize("message", BAD)
def test_outputs_that_are_not_logits(message: str) -> None:
    with pytest.raises(InputError, match=message):
        freeze(BAD[message])(X)


def test_bad_options() -> None:
    model = convnet()
    with pytest.raises(InputError, match="precision"):
        freeze(model, "fp8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="function of x"):
        freeze(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="CUDA"):
        freeze(model, cuda_graph=True)
    with pytest.raises(InputError, match="where the model is"):
        freeze(model)(X.to("meta"))
    with pytest.raises(InputError, match="cuts the graph"):
        freeze(lambda x: model.eval()(x.detach())).input_gradient(X, Y)


def test_empty_batch() -> None:
    frozen: Frozen = freeze(convnet())
    value, logits, gradient = frozen.input_gradient(X[:0], Y[:0])
    assert value.shape == (0,)
    assert logits.shape == (0, 5)
    assert gradient.shape == (0, 2, 8, 8)


def test_compiled() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 5))
    frozen = freeze(model, compile=True)
    torch.testing.assert_close(frozen.input_gradient(X, Y)[2], by_autograd(model, X, Y))
    assert "compiled" in frozen.notes
    assert not any("fell back" in note for note in frozen.notes)


def test_describe_tells_the_options_apart() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 5))
    described = [
        freeze(model, precision, fold=fold, compile=compile).describe()
        for precision in ("fp32", "bf16")
        for fold in (True, False)
        for compile in (True, False)
    ]
    assert described[0] == {"precision": "fp32", "fold": True, "compile": True}
    assert described == json.loads(json.dumps(described))
    assert len({json.dumps(each) for each in described}) == 8
