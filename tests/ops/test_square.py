"""The proposals of the Square Attack: windows by random words, and what stands in them."""

from functools import partial

import pytest
import torch
from torch import Tensor

from fastadv import rng
from fastadv.ops._windows import middle_corners
from fastadv.ops.square_bumps import square_bumps
from fastadv.ops.square_linf import square_linf
from tests.refusals import refuses

IMAGE = (3, 32, 32)


def words(rows: int, count: int, seed: int = 0) -> Tensor:
    return rng.bits(count, seed, torch.arange(rows))


def unit(*shape: int, power: int = 2) -> Tensor:
    bumps = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return bumps / bumps.flatten(1).norm(power, dim=1)[:, None, None]


def test_middle_corners_draw_edges_half_as_often() -> None:
    corner = middle_corners(words(8000, 2), (1, 7, 5), (3, 5))
    assert (corner[:, 1] == 0).all()
    shares = corner[:, 0].bincount(minlength=5) / 8000
    expected = torch.tensor([1, 2, 2, 2, 1]) / 8
    torch.testing.assert_close(shares, expected, rtol=0, atol=4 * (0.25 / 8000) ** 0.5)


def test_each_channel_has_its_own_end() -> None:
    best, lower, upper = torch.zeros(500, *IMAGE), torch.full((500, *IMAGE), -1.0), torch.ones(500, *IMAGE)
    drawn = words(500, 6)
    out = square_linf(best, lower, upper, drawn, IMAGE, (5, 7))
    total = out.sum((2, 3))
    assert torch.equal(total, (2.0 * (drawn[:, 2:-1] & 1) - 1) * 35)
    assert len(total.unique(dim=0)) == 8
    assert torch.equal((out != 0).any(1, keepdim=True).expand_as(out), out != 0)


@pytest.mark.parametrize("channels", [1, 3, 30])
def test_what_is_there_already_takes_other_ends(channels: int) -> None:
    """At least one channel changes, the one that the last word names; of the others each by its bit."""
    image, drawn = (channels, 4, 3), words(200, 3 + channels)
    lower, upper = -torch.ones(200, *image), torch.ones(200, *image)
    there = square_linf(torch.zeros(200, *image), lower, upper, drawn, image, (4, 3))
    moved = (square_linf(there, lower, upper, drawn, image, (4, 3)) != there).flatten(2)
    assert torch.equal(moved.any(2), moved.all(2))
    for row, last in enumerate(drawn[:, -1].tolist()):
        chosen = [c == last % channels or (c < 24 and bool(last >> 8 >> c & 1)) for c in range(channels)]
        assert moved[row].any(1).tolist() == chosen


def test_wrong_arguments() -> None:
    x, drawn, size = torch.zeros(2, 3, 4, 4), words(2, 8), (3, 4, 4)
    linf = partial(square_linf, x, x, x)
    refuses("image: expected", linf, drawn[:, :6], (3, 4, 5), (2, 2))
    refuses("window: expected", linf, drawn[:, :6], size, (5, 2))
    refuses("words: expected", linf, drawn[:, :5], size, (2, 2))
    refuses("norm: expected one of l2, l1", square_bumps, x, x, drawn, unit(3, 3), size, "linf", 1.0)
    refuses("radius: expected a finite", square_bumps, x, x, drawn, unit(3, 3), size, "l1", torch.inf)
