"""The proposals of the Square Attack: where windows come, and what is refused."""

from functools import partial

import torch
from torch import Tensor

from fastadv import rng
from fastadv.ops._windows import middle_corners
from fastadv.ops.square_bumps import square_bumps
from fastadv.ops.square_linf import square_linf
from tests.refusals import refuses


def words(rows: int, count: int, seed: int = 0) -> Tensor:
    return rng.bits(count, seed, torch.arange(rows))


def test_middle_corners_draw_edges_half_as_often() -> None:
    corner = middle_corners(words(8000, 2), (1, 7, 5), (3, 5))
    assert (corner[:, 1] == 0).all()
    shares = corner[:, 0].bincount(minlength=5) / 8000
    expected = torch.tensor([1, 2, 2, 2, 1]) / 8
    torch.testing.assert_close(shares, expected, rtol=0, atol=4 * (0.25 / 8000) ** 0.5)


def test_wrong_arguments() -> None:
    x, drawn, size, bumps = torch.zeros(2, 3, 4, 4), words(2, 8), (3, 4, 4), torch.rand(2, 3, 3)
    linf = partial(square_linf, x, x, x)
    refuses("image: expected", linf, drawn[:, :6], (3, 4, 5), (2, 2))
    refuses("window: expected", linf, drawn[:, :6], size, (5, 2))
    refuses("words: expected", linf, drawn[:, :5], size, (2, 2))
    refuses("norm: expected one of l2, l1", square_bumps, x, x, drawn, bumps, size, "linf", 1.0)
    refuses("radius: expected a finite", square_bumps, x, x, drawn, bumps, size, "l1", torch.inf)
