"""The gradient to an image through its product with the weights is the gradient."""

import copy

import pytest
import torch
from torch import nn

from fastadv.engine import freeze
from fastadv.engine.thin import ThinConv2d, thin


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 2}, {"dilation": 2, "padding": (1, 3), "bias": False}, {"stride": (1, 3)}],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradient(options: dict[str, object], channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 24, (3, 5), **options).to(dtype).requires_grad_(False)  # type: ignore[arg-type]
    for format in (torch.contiguous_format, torch.channels_last):
        x = torch.rand(3, channels, 11, 13).to(dtype).contiguous(memory_format=format).requires_grad_()
        out = conv(x)
        back = torch.randn_like(out)
        (expected,) = torch.autograd.grad(out, x, back)
        model = nn.Sequential(copy.deepcopy(conv))
        # with a stride the library is faster for more than one channel
        assert thin(model) == (channels == 1 or conv.stride == (1, 1))
        thin_out = model(x)
        assert torch.equal(thin_out, out)
        (actual,) = torch.autograd.grad(thin_out, x, back)
        torch.testing.assert_close(
            actual,
            expected,
            rtol=0,
            atol=0.02 * float(expected.abs().max()) if dtype == torch.bfloat16 else 1e-5,
        )
        assert actual.dtype == x.dtype
        assert actual.is_contiguous(memory_format=format)


def test_only_where_it_pays_and_is_the_same() -> None:
    kept = [
        nn.Conv2d(8, 64, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(2, 32, 3, groups=2),
        nn.Conv2d(1, 32, 3, padding="same"), nn.Conv2d(1, 32, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(1, 32, 3), nn.Conv1d(1, 32, 3),
    ]  # fmt: skip
    assert thin(nn.Sequential(*kept)) == 0


def test_the_callers_model_keeps_its_class() -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16 * 36, 4)).eval()
    frozen = freeze(model)
    assert "thin input convolution" in frozen.notes
    assert type(model[0]) is nn.Conv2d
    assert any(isinstance(part, ThinConv2d) for part in frozen.search.model.modules())  # type: ignore[attr-defined]
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5) % 4
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    for fold in (True, False):
        torch.testing.assert_close(freeze(model, fold=fold).input_gradient(x, y)[2], expected)


def test_float16_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op has no kernel for it, and its reference is slower."""
    monkeypatch.setenv("FASTADV_STRICT", "1")
    model = nn.Sequential(nn.Conv2d(1, 8, 3).requires_grad_(False).half())
    x = torch.rand(2, 1, 6, 6).half().requires_grad_()
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    assert thin(model) == 1
    assert torch.equal(torch.autograd.grad(model(x).sum(), x)[0], expected)
