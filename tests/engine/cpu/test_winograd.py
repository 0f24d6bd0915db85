"""A search copy's wide convolutions by Winograd's method are those of the model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine.cpu import winograd
from fastadv.engine.cpu.winograd import WINOGRAD
from tests.engine.rewritten import Seen

pytestmark = pytest.mark.skipif(
    not winograd.available(torch.float32),
    reason="torch was built without oneDNN, or fastadv without its extension",
)


@pytest.fixture(autouse=True)
def _narrow_ones_too(search_copy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", {torch.float32: 1, torch.bfloat16: 1})
    monkeypatch.setattr(winograd, "LEAST_TILES", 0)


def seen(run: Any) -> Seen:
    """`run`, with convolutions by Winograd's method."""
    return Seen(run, WINOGRAD)


def rows(*shape: int) -> Tensor:
    """Images [B, C, H, W], channels-last."""
    return torch.rand(*shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_changed_weights_are_followed(padding: int) -> None:
    layer = nn.Conv2d(3, 6, 3, padding=padding).requires_grad_(False)
    x, watched = rows(2, 3, 8, 8), seen(layer)
    for factor in (1.0, -2.0):
        layer.weight.mul_(factor)
        leaf = x.clone().requires_grad_()
        out = watched(leaf)
        expected = F.conv2d(leaf, layer.weight, layer.bias, padding=padding)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        (gradient,) = torch.autograd.grad(out.sum(), leaf)
        (expected,) = torch.autograd.grad(expected.sum(), leaf)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
        assert watched.used == {"winograd"}


@pytest.mark.parametrize("bytes", [1, 1 << 24])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_in_parts(bytes: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "LARGEST", 36 * 3 * 4 * 5)  # 5 outputs forwards, 2 backwards
    monkeypatch.setattr(winograd, "BLOCK", 2)
    monkeypatch.setattr(winograd, "BYTES", bytes)
    plain = nn.Conv2d(3, 7, 3, padding=1, bias=bias).requires_grad_(False)
    watched = seen(plain)
    x, direction = torch.rand(40, 3, 8, 5), torch.randn(40, 7, 8, 5)
    results = []
    for run in (watched, plain):
        leaf = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        out = run(leaf)
        assert out.is_contiguous(memory_format=torch.channels_last)
        results.append((out, *torch.autograd.grad(out, leaf, direction)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert watched.used == {"winograd"}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_that_a_hook_computes_are_left_to_the_library(normed: Any) -> None:
    layer = normed(nn.Conv2d(4, 4, 3)).eval().requires_grad_(False)
    x, watched = rows(2, 4, 8, 8), seen(layer)
    assert torch.equal(watched(x), layer(x))
    assert watched.used == set()
    del layer.weight
    layer.weight = nn.Parameter(torch.randn(4, 4, 3, 3), requires_grad=False)
    layer._forward_pre_hooks.clear()
    watched(x)
    assert watched.used == {"winograd"}


def test_what_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    watched, last = seen(layer), rows(2, 4, 8, 8)
    fifth = last[:, :, :5, :5].contiguous(memory_format=torch.channels_last)  # a pixel that wastes a tile
    for x in (torch.rand(2, 4, 8, 8), fifth, torch.rand(4, 8, 8)):
        assert torch.equal(watched(x), layer(x))
        assert watched.used == set()
    with pytest.raises(RuntimeError):
        watched(last[:, :3].contiguous(memory_format=torch.channels_last))
    for dtype in (torch.float64, torch.bfloat16):
        layer.to(dtype)
        assert torch.equal(watched(last.to(dtype)), layer(last.to(dtype)))
        assert watched.used == set()
    layer.float()
    for tiles, channels, used in ((9, 4, set()), (8, 5, set()), (8, 4, {"winograd"})):
        monkeypatch.setattr(winograd, "LEAST_TILES", tiles)
        monkeypatch.setattr(winograd, "LEAST_CHANNELS", {torch.float32: channels})
        (watched := seen(layer))(last)
        assert watched.used == used
    monkeypatch.setattr(winograd, "MOST_BYTES", 0)
    (watched := seen(layer))(last)
    assert watched.used == set()
