"""Winograd's two ends and a product between them are a convolution."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from fastadv.ops import winograd as ops
from tests.refusals import refuses

LOOSE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.05}
LARGE_TILES = 0.4  # in bfloat16, for which the engine takes tiles of 2: those of 4 lose a fifth


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, size: int) -> Tensor:
    tiles = ops.winograd_tiles(x.movedim(1, 3), size, padding)
    kernels = ops.winograd_kernels(weight, size)
    products = (tiles.transpose(0, 1) @ kernels.transpose(1, 2)).transpose(0, 1)
    shape = len(x), *(side + 2 * padding - 2 for side in x.shape[2:])
    return ops.winograd_image(products, bias, shape, size).movedim(3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LOOSE)
@given(
    sizes=st.tuples(*[st.integers(0, 3), *[st.integers(1, 9)] * 4, *[st.integers(0, 3)]]),
    size=st.sampled_from([2, 4]),
    with_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_convolution(dtype, sizes, size, with_bias, seed):
    count, channels, outputs, height, width, padding = sizes
    padding = max(padding, (4 - min(height, width)) // 2)
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, channels, height, width, generator=draw)
    weight, bias = torch.randn(outputs, channels, 3, 3, generator=draw), torch.randn(outputs, generator=draw)
    ours = convolved(x.to(dtype), weight.to(dtype), bias.to(dtype) if with_bias else None, padding, size)
    expected = conv2d(x.double(), weight.double(), bias.double() if with_bias else None, padding=padding)
    assert (ours.shape, ours.dtype) == (expected.shape, dtype)
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    loose = LARGE_TILES if (dtype, size) == (torch.bfloat16, 4) else LOOSE[dtype]
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=loose * scale)


@pytest.mark.parametrize("size", [2, 4])
def test_what_is_not_finite_stays_in_its_image(size: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 5, 8, 8, generator=draw), torch.randn(4, 5, 3, 3, generator=draw)
    clean = convolved(x, weight, None, 1, size)
    x[1, 2, 3, 3] = torch.nan
    ours = convolved(x, weight, None, 1, size)
    assert torch.equal(ours[[0, 2]], clean[[0, 2]])
    assert ours.isnan()[conv2d(x, weight, padding=1).isnan()].all()


def test_wrong_arguments() -> None:
    x, weight = torch.rand(2, 6, 6, 3), torch.rand(4, 3, 3, 3)
    tiles = ops.winograd_tiles(x, 4)
    for call, words in (
        (lambda: ops.winograd_tiles(x, 3), "size: expected 2 or 4 elements a tile, got 3"),
        (lambda: ops.winograd_tiles(x[:, :2], 4, 0), "padding: expected one with which a kernel"),
        (lambda: ops.winograd_kernels(weight[..., :2], 4), "weight: expected"),
        (lambda: ops.winograd_image(tiles, None, (2, 6, 9), 4), r"products: expected \[12, 36, C\]"),
        (lambda: ops.winograd_image(tiles, torch.zeros(4), (2, 6, 6), 4), r"bias: expected \[3\]"),
    ):
        refuses(words, call)
