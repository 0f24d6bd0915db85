"""Square Attack and Sparse-RS: their squares and sets, their schedules, and that they ask logits alone."""

import pytest
import torch
from torch import Tensor

from fastadv.attacks import sparse_rs, square
from fastadv.attacks.sparse_rs import _share as _sparse_share
from fastadv.attacks.square import _share, two_bumps
from fastadv.threat import L0, THREATS

from .watched import firm

NORMS = ["linf", "l2", "l1"]


def test_the_schedule() -> None:
    """After 10, 50, 200, 500, 1,000, 2,000, 4,000, 6,000 and 8,000 queries the share halves."""
    ends = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001]
    halvings = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9]
    assert [_share(end, 5000, 0.8, False) for end in ends] == [0.8 / 2**n for n in halvings]
    # along 500 queries it comes to the last square of 10,000
    assert (_share(0, 500, 0.8, True), _share(3, 500, 0.8, True)) == (0.8, 0.8 / 4)
    assert _share(499, 500, 0.8, True) == 0.8 / 512


@pytest.mark.parametrize(
    ("power", "upper", "lower"),
    [
        (1, [[1.0, 17.0, 1.0]], [[1.0, 1.0, 1.0], [1.0, 17.0, 1.0]]),
        (2, [[0.25, 1.25, 0.25]], [[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]]),
    ],
)
def test_two_bumps_by_hand(power: int, upper: list[list[float]], lower: list[list[float]]) -> None:
    """One of one row, one of two; in L1 they fall with the fourth power. Both have the same length."""
    bumps = [torch.tensor(rows) / torch.tensor(rows).norm(p=power) for rows in (upper, lower)]
    whole = torch.cat([bumps[0], -bumps[1]]) / 2 ** (1 / power)
    options = (1,) if power == 1 else ()
    torch.testing.assert_close(torch.tensor(two_bumps(3, 3, False, *options)).view(3, 3), whole)
    torch.testing.assert_close(torch.tensor(two_bumps(3, 3, True, *options)).view(3, 3), whole.T)
    assert torch.tensor(two_bumps(7, 5, False, *options)).norm(p=power) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(12,), (6, 6), (3, 8, 8), (2, 5, 9), (2, 2, 4, 4)])
@pytest.mark.parametrize("norm", NORMS)
def test_points_of_every_rank_stay_inside_and_use_the_radius(norm: str, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(1)
    model, seen = firm(torch.randn(shape, generator=draw))
    x, radius = 0.4 + 0.2 * torch.rand(3, *shape, generator=draw), torch.tensor([0.05, 0.2, 0.3])
    inside = THREATS[norm](radius)
    square(model, x, torch.zeros(3, dtype=torch.long), inside, queries=25)
    order = THREATS[norm].order
    for point in seen[1:-1]:
        assert inside.contains(point, x).all()
        length = (point - x).flatten(1).norm(p=order, dim=1)
        torch.testing.assert_close(length, radius, rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_every_restart_draws_anew(norm: str) -> None:
    model, seen = firm()
    x, y = torch.full((3, 1, 9, 9), 0.5), torch.zeros(3, dtype=torch.long)
    square(model, x, y, THREATS[norm](0.1), queries=5, restarts=2)
    assert (seen[1] != seen[6]).flatten(1).any(1).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_the_last_row_and_column_are_as_near_as_the_first(norm: str) -> None:
    """The authors' code in L1 never draws a square there: a model that reads nothing else holds."""
    x, y = torch.full((5, 1, 9, 9), 0.5), torch.zeros(5, dtype=torch.long)

    def gain(axis: int, place: int) -> Tensor:
        rise = torch.zeros(1, 9, 9)
        rise.select(axis, place).fill_(1.0)
        out = square(firm(rise)[0], x, y, THREATS[norm](0.1), queries=400, stop_early=False)
        return ((out.x_adv - x) * rise).sum((1, 2, 3)).mean()

    for axis in (1, 2):
        first, last = gain(axis, 0), gain(axis, -1)
        assert 0.6 * first < last < first / 0.6


def zeros(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.long)


def test_the_schedule_of_sparse_rs() -> None:
    """The divisors of the paper after 0, 50, 200, 500, 1,000, 2,000, 4,000, 6,000 and 8,000 queries."""
    ends = [0, 1, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001]
    divisors = [1, 2, 2, 4, 4, 5, 5, 6, 6, 8, 8, 10, 10, 12, 12, 15, 15, 20]
    assert [_sparse_share(end, 5000, 0.8, False) for end in ends] == [0.8 / n for n in divisors]
    assert [_sparse_share(end, 10_000, 0.8, True) for end in ends] == [0.8 / n for n in divisors]
    # 500 queries come as far as 10,000
    assert [_sparse_share(query, 500, 0.3, True) for query in (1, 3, 499)] == [0.3 / 2, 0.3 / 4, 0.3 / 20]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(784,), (3, 32, 32)], ids=str)
def test_sets_by_hand(shape: tuple[int, ...]) -> None:
    """As many coordinates as the radius says, each at an end where x is not; then exchanges of some."""
    model, seen = firm()
    box = (-1.0, 2.0)
    x = torch.full((4, *shape), 0.5)
    x.flatten(1)[:, ::2] = -1.0  # saturated, as the background of a digit
    x.flatten(1)[:, 1::4] = 2.0
    radii = torch.tensor([40.0, 20.9, 1.0, 0.0])
    sparse_rs(model, x, zeros(4), L0(radii, box), queries=100, rescale=False, stop_early=False)
    start, proposals = seen[1], seen[2:-1]
    assert len(proposals) == 99
    for point in (start, *proposals):
        moved = (point != x).flatten(1)
        assert moved.sum(1).tolist() == [40, 20, 1, 0]
        assert ((point == box[0]) | (point == box[1])).flatten(1)[moved].all()
    # nothing improves on the start, from which 0.4, then 0.2 of the set is exchanged
    for place, proposal in enumerate(proposals):
        apart = ((proposal != start) & (start != x)).flatten(1).sum(1).tolist()
        assert apart == ([16, 8, 1, 0] if place < 50 else [8, 4, 1, 0])
    # gray coordinates go to both ends
    gray = torch.cat([point.flatten(1)[0, 3::4] for point in proposals])
    assert (gray == box[0]).sum() > 100
    assert (gray == box[1]).sum() > 100


def test_coordinates_are_drawn_evenly() -> None:
    """Each coordinate is as likely to come, and each of the set to leave."""
    model, seen = firm()
    x = torch.full((600, 12), 0.5)
    sparse_rs(model, x, zeros(600), L0(3), queries=30, stop_early=False)
    start = seen[1] != x
    assert (start.sum(0) - 150).abs().max() < 50
    came = sum(((point != x) & ~start).sum(0) for point in seen[2:-1])
    left = sum(((point == x) & start).sum(0) for point in seen[2:-1])
    for number in (came, left):
        assert (number / number.sum() * 12 - 1).abs().max() < 0.2


def test_the_set_lies_inside_the_mask() -> None:
    """No coordinate of the budget is spent where the mask holds x, not even where the mask is the smaller."""
    model, seen = firm()
    x = torch.full((3, 1, 4, 4), 0.5)
    mask = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    mask[0, :, 1], mask[1, :, 2:], mask[2, 0, 0, 0] = True, True, True
    sparse_rs(model, x, zeros(3), L0(5), queries=20, mask=mask, stop_early=False)
    for point in seen[1:-1]:
        moved = point != x
        assert not moved[~mask].any()
        assert moved.flatten(1).sum(1).tolist() == [4, 5, 1]
