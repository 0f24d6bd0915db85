"""The gradient to an image through its product with the weights is the gradient."""

from typing import Any

import pytest
import torch
from torch import nn

from fastadv.engine.rewrites import THIN
from tests.engine.rewritten import Seen


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 2}, {"dilation": 2, "padding": (1, 3), "bias": False}, {"stride": (1, 3)}],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradient(options: dict[str, Any], channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 24, (3, 5), **options).to(dtype).requires_grad_(False)
    seen = Seen(conv, THIN)
    for format in (torch.contiguous_format, torch.channels_last):
        x = torch.rand(3, channels, 11, 13).to(dtype).contiguous(memory_format=format).requires_grad_()
        out = conv(x)
        back = torch.randn_like(out)
        (expected,) = torch.autograd.grad(out, x, back)
        thin_out = seen(x)
        # the library is faster for more than one channel with a stride, and in bfloat16
        few = channels == 1 or (conv.stride == (1, 1) and dtype != torch.bfloat16)
        assert seen.used == ({"thin"} if few else set())
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


def test_only_where_a_gradient_goes_to_the_image_alone() -> None:
    layer, x = nn.Conv2d(1, 32, 3).requires_grad_(False), torch.rand(2, 1, 6, 6)
    seen = Seen(layer, THIN)
    seen(x)
    with torch.no_grad():
        seen(x.clone().requires_grad_())
    assert seen.used == set()
    with pytest.raises(RuntimeError):
        seen(x.double().requires_grad_())
    assert seen.used == set()
    seen(x[0].clone().requires_grad_())  # an image without a batch
    assert seen.used == set()


def test_float16_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op has no kernel for it, and its reference is slower."""
    monkeypatch.setenv("FASTADV_STRICT", "1")
    layer = nn.Conv2d(1, 8, 3).requires_grad_(False).half()
    x, seen = torch.rand(2, 1, 6, 6).half().requires_grad_(), Seen(layer, THIN)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.equal(torch.autograd.grad(seen(x).sum(), x)[0], expected)
    assert seen.used == set()
