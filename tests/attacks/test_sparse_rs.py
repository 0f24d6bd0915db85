"""Sparse-RS: its sets, its schedule, its strength on linear models, and that it asks for logits alone."""

import pytest
import torch
from torch import Tensor

from fastadv.attacks import sparse_rs
from fastadv.attacks.sparse_rs import _share
from fastadv.threat import L0

from .watched import firm

pytestmark = pytest.mark.slow


def zeros(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.long)


def test_the_schedule() -> None:
    """The divisors of the paper after 0, 50, 200, 500, 1,000, 2,000, 4,000, 6,000 and 8,000 queries."""
    ends = [0, 1, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001]
    divisors = [1, 2, 2, 4, 4, 5, 5, 6, 6, 8, 8, 10, 10, 12, 12, 15, 15, 20]
    assert [_share(end, 5000, 0.8, False) for end in ends] == [0.8 / n for n in divisors]
    assert [_share(end, 10_000, 0.8, True) for end in ends] == [0.8 / n for n in divisors]
    # 500 queries come as far as 10,000
    assert [_share(query, 500, 0.3, True) for query in (1, 3, 499)] == [0.3 / 2, 0.3 / 4, 0.3 / 20]


@pytest.mark.parametrize("shape", [(784,), (3, 32, 32)], ids=str)
def test_points_by_hand(shape: tuple[int, ...]) -> None:
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
