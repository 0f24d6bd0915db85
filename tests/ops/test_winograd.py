"""Winograd's two ends and a product between them are a convolution."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fastadv.ops import winograd as ops
from tests.refusals import refuses


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, size: int) -> Tensor:
    tiles = ops.winograd_tiles(x.movedim(1, 3), size, padding)
    kernels = ops.winograd_kernels(weight, size)
    products = (tiles.transpose(0, 1) @ kernels.transpose(1, 2)).transpose(0, 1)
    shape = len(x), *(side + 2 * padding - 2 for side in x.shape[2:])
    return ops.winograd_image(products, bias, shape, size).movedim(3, 1)


@pytest.mark.parametrize("size", [2, 4])
def test_a_convolution_in_which_what_is_not_finite_stays_in_its_image(size: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 5, 9, 7, generator=draw), torch.randn(4, 5, 3, 3, generator=draw)
    clean, bias = convolved(x, weight, None, 1, size), torch.randn(4, generator=draw)
    torch.testing.assert_close(clean, conv2d(x, weight, padding=1), rtol=0, atol=1e-4)
    with_bias, wanted = convolved(x.double(), weight.double(), bias.double(), 2, size), (x, weight, bias)
    torch.testing.assert_close(with_bias, conv2d(*map(Tensor.double, wanted), padding=2), rtol=0, atol=1e-12)
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
        (lambda: ops.winograd_image(tiles, None, (2, 6, 9), 4), r"products: expected floating \[12, 36, C\]"),
        (lambda: ops.winograd_image(tiles, torch.zeros(4), (2, 6, 6), 4), r"bias: expected floating \[3\]"),
    ):
        refuses(words, call)
