"""Square Attack: its squares, its schedule, and that it asks for logits alone."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import sparse_rs, square
from fastadv.attacks.square import _Draw, _share, two_bumps
from fastadv.threat import L0, L1, L2, THREATS, Linf

from .nets import images
from .watched import firm

NORMS = ["linf", "l2", "l1"]


def test_the_schedule() -> None:
    """After 10, 50, 200, 500, 1,000, 2,000, 4,000, 6,000 and 8,000 queries the share halves."""
    ends = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001]
    halvings = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9]
    assert [_share(end, 5000, 0.8, False) for end in ends] == [0.8 / 2**n for n in halvings]
    # along 500 queries it comes to the last square of 10,000
    assert _share(0, 500, 0.8, True) == 0.8
    assert _share(3, 500, 0.8, True) == 0.8 / 4
    assert _share(499, 500, 0.8, True) == 0.8 / 512


@pytest.mark.parametrize(
    ("shape", "pixels", "least", "odd", "window"),
    [
        ((3, 32, 32), 0.8 * 1024, 1, False, (29, 29)),
        ((3, 32, 32), 100, 3, True, (11, 11)),
        ((3, 32, 32), 0.1, 1, False, (1, 1)),
        ((3, 32, 32), 0.1, 3, True, (3, 3)),
        ((1, 2, 2), 4, 3, True, (2, 2)),
        ((1, 4, 50), 100, 1, False, (4, 25)),
        ((1, 50, 4), 100, 1, False, (25, 4)),
        ((200,), 100, 1, False, (1, 100)),
    ],
)
def test_windows(
    shape: tuple[int, ...], pixels: float, least: int, odd: bool, window: tuple[int, int]
) -> None:
    class Stub:
        x, seed, restart, ids = torch.zeros(2, *shape), 0, 0, torch.arange(2)

    assert _Draw(Stub()).window(pixels, least, odd) == window  # type: ignore[arg-type]


def test_two_bumps_in_l1_by_hand() -> None:
    """They fall with the fourth power, and have the length 1 in L1."""
    values = torch.tensor(two_bumps(3, 3, False, 1)).view(3, 3)
    upper = torch.tensor([[1.0, 17.0, 1.0]])
    lower = torch.tensor([[1.0, 1.0, 1.0], [1.0, 17.0, 1.0]])
    torch.testing.assert_close(values, torch.cat([upper / 19, -lower / 22]) / 2)


@pytest.mark.parametrize("radius", [6.0, 100.0])  # the box leaves room for about 80
def test_l1_proposals_by_hand(radius: float) -> None:
    """Bumps added to the direction of what is in a window take the length of another window and of what is
    not spent, in each channel as often as there are channels; the projection brings all to the ball.
    """
    model, seen = firm()
    x = 0.3 + 0.4 * images(3, (2, 9, 9), dtype=torch.float32)
    square(model, x, torch.zeros(3, dtype=torch.long), L1(radius), queries=14, stop_early=False)
    start, inside = seen[1], L1(radius)
    delta = start - x
    spent = delta.abs().sum((1, 2, 3))
    assert ((spent - 6).abs() < 1e-4).all() if radius == 6 else ((spent > 50) & (spent < 90)).all()
    for query, proposal in enumerate(seen[2:-1], start=1):
        side = 9 if query <= 11 else 7
        words = rng.bits(7, rng.derive(0, "square", 0), torch.arange(3), query)
        corner = (words[:, :4].double() * 2**-32 * (9 - side) + 0.5).floor().long()
        for i in range(3):
            top, left, down, right = corner[i].tolist()
            here = (slice(None), slice(top, top + side), slice(left, left + side))
            union = torch.zeros(2, 9, 9, dtype=torch.bool)
            union[here] = True
            there = (slice(None), slice(down, down + side), slice(right, right + side))
            union[there] = True
            bumps = torch.tensor(two_bumps(side, side, bool(words[i, 4] & 1), 1)).view(side, side)
            sign = 1.0 - 2.0 * (words[i, 5:] & 1).float().view(2, 1, 1)
            old = delta[i][here]
            new = bumps * sign + old / old.abs().sum((1, 2), keepdim=True).clamp_min(1e-12)
            length = (delta[i].abs() * union).sum((1, 2), keepdim=True) + (radius - spent[i]) / 2
            expected = delta[i].clone()
            expected[there] = 0
            expected[here] = new / new.abs().sum((1, 2), keepdim=True) * length * 2
            point = inside.project((x[i] + expected)[None], x[i : i + 1])[0]
            torch.testing.assert_close(proposal[i], point, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_a_proposal_in_linf_always_changes_something() -> None:
    """Where all of its ends are those of the best point, some channels take the other end, one at least."""
    for channels in (1, 3):
        model, seen = firm()
        x = torch.full((40, channels, 6, 6), 0.5)
        square(model, x, torch.zeros(40).long(), Linf(0.1), queries=60, share=0.03, stop_early=False)
        start, proposals = seen[1], torch.stack(seen[2:-1])
        changed = (proposals != start).flatten(3).any(3)
        assert changed.any(2).all()
        # of those of one channel none, of the others about half of the rest
        if channels == 3:
            assert 0.4 < float(changed.float().mean()) < 0.65
            assert len({tuple(row) for row in changed.flatten(0, 1).tolist()}) == 7


def test_two_bumps_by_hand() -> None:
    """The lower bump of three rows: 1 in the middle, a quarter more around it, the upper bump one row."""
    values = torch.tensor(two_bumps(3, 3, False)).view(3, 3)
    upper = torch.tensor([0.25, 1.25, 0.25])
    lower = torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    whole = torch.cat([(upper / upper.norm())[None], -lower / lower.norm()]) / 2**0.5
    torch.testing.assert_close(values, whole)
    torch.testing.assert_close(torch.tensor(two_bumps(3, 3, True)).view(3, 3), whole.T)
    assert torch.tensor(two_bumps(7, 5, False)).norm() == pytest.approx(1)


def test_linf_points_by_hand() -> None:
    """Stripes first; then one square at a time, at one end of the ball in each channel."""
    model, seen = firm()
    x = torch.full((4, 3, 10, 10), 0.5)
    x[:, 0] = 0.95
    square(model, x, torch.zeros(4, dtype=torch.long), Linf(0.1), queries=30, stop_early=False)
    start, proposals = seen[1], seen[2:-1]
    ends = torch.tensor([1.0, 0.6, 0.6]), torch.tensor([0.85, 0.4, 0.4])
    for point in seen[1:-1]:
        near = [(point - end[None, :, None, None]).abs() < 1e-6 for end in ends]
        assert (near[0] | near[1]).all()
    assert (start == start[:, :, :1]).all()
    assert len({tuple(row.tolist()) for row in start[:, 1, 0]}) == 4
    assert len(proposals) == 29
    # nothing improves on the stripes, so that each proposal differs from them by one square
    side = 9  # of 80 of 100 pixels
    places = set()
    for proposal in proposals[:11]:
        for row in proposal != start:
            where = row.any(0).nonzero()
            assert ((where.amax(0) - where.amin(0)) < side).all()
        places |= {tuple(row.flatten().tolist()) for row in proposal != start}
    # samples have their own squares and signs
    assert len(places) > 30


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


@pytest.mark.parametrize("norm", list(THREATS))
def test_seeds_ids_and_restarts_draw_anew(norm: str) -> None:
    """As in Sparse-RS; and logits alone are asked, one for each query and verdict."""
    x, y = torch.full((4, 3, 6, 6), 0.5), torch.zeros(4, dtype=torch.long)

    def points(**options: Any) -> list[Tensor]:
        model, seen = firm()
        attack, threat = (sparse_rs, L0(10)) if norm == "l0" else (square, THREATS[norm](0.1))
        out = attack(model, x, y, threat, queries=4, stop_early=False, **options)
        assert not any(point.requires_grad for point in seen)
        assert (out.forwards, out.backwards) == (4 * len(seen), 0)
        return seen[1:-1]

    base = points()
    assert all(torch.equal(a, b) for a, b in zip(base, points(), strict=True))
    both = points(restarts=2)
    assert (len(base), len(both)) == (4, 8)
    for other in (points(seed=1), points(ids=torch.arange(4) + 4), both[4:], base[1:]):
        for a, b in zip(base, other, strict=False):
            assert (a != b).flatten(1).any(1).all()
    for point in base:
        assert len({tuple(row.tolist()) for row in point.flatten(1)}) == 4


def test_words_drawn_ahead_are_those_of_each_query_and_not_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are one long row need a word for each pixel at first."""
    drawn: list[int] = []
    bits = rng.bits

    def watched(*args: Any) -> Tensor:
        drawn.append(bits(*args).numel())
        return bits(*args)

    monkeypatch.setattr(rng, "bits", watched)
    model, _ = firm()
    x = images(2, (700,))
    ahead = square(model, x, torch.zeros(2).long(), Linf(0.1), queries=70)
    assert max(drawn) <= 2 * 1024
    assert len(drawn) == 4
    monkeypatch.setattr(sys.modules[square.__module__], "AHEAD", 1)
    assert torch.equal(square(model, x, torch.zeros(2).long(), Linf(0.1), queries=70).x_adv, ahead.x_adv)


def test_the_schedule_is_stretched_in_linf_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    module = sys.modules[square.__module__]
    monkeypatch.setattr(module, "ends_behind", lambda *given: asked.append(given[-1]) or 0)
    for norm, threat in ((True, Linf(0.1)), (False, L2(0.5)), (False, L1(2.0))):
        asked.clear()
        x = torch.full((2, 1, 6, 6), 0.5)
        square(firm()[0], x, torch.zeros(2).long(), threat, queries=3, stop_early=False)
        assert asked
        assert {*asked} == {norm}
