"""The kernels of Analysis by Synthesis where the contract's samples do not reach: special values and tiles of every size."""

import pytest
import torch
from test_triton import DEVICE, _interpreter, pytestmark  # noqa: F401  (a fixture and marks that pytest finds by name)

from fastadv._library import CARDS, triton_launcher

INF, NAN = float("inf"), float("nan")


def nearest(x, prototypes, bias):
    card, args = CARDS["nearest_prototype"], tuple(t.to(DEVICE) for t in (x, prototypes, bias))
    actual, expected = triton_launcher(card)(*args), card.reference(*args)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0, equal_nan=True)


def test_nearest_of_special_values():
    draw = torch.Generator().manual_seed(0)
    x, prototypes, bias = torch.rand(7, 5, generator=draw), torch.rand(2, 140, 5, generator=draw), torch.rand(2, 140, generator=draw)
    x[0, 1], x[1, 2], x[2] = NAN, INF, 3e19  # a square beyond float32
    nearest(x, prototypes, bias)
    prototypes[0, 3, 0], prototypes[0, 70, 2], bias[0, 100] = INF, 1.9e19, INF
    bias[1, 130], bias[1, 65] = -INF, -1e30
    nearest(x, prototypes, bias)
    prototypes[0, 90, 1], bias[1, 77], bias[1, 12] = NAN, NAN, NAN
    nearest(x, prototypes, bias)
    nearest(x, prototypes, torch.full_like(bias, INF))


@pytest.mark.parametrize("scale", [1e-30, 1e15, 1e19])
def test_nearest_at_extreme_scales(scale):
    draw = torch.Generator().manual_seed(1)
    x, prototypes = scale * torch.rand(3, 20, generator=draw), scale * torch.rand(70, 20, generator=draw)
    nearest(x, prototypes, torch.zeros(70))


def test_nearest_where_the_product_form_holds_no_digit():
    # at an offset of 1e6 squares are off by 1e6, the distances differ by one or so; half of them tie
    draw = torch.Generator().manual_seed(2)
    x, prototypes = (torch.randint(0, 4, (count, 12), generator=draw).float() + 1e6 for count in (2, 150))
    nearest(x, torch.cat([prototypes, prototypes]), torch.zeros(300))
