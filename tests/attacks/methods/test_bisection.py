"""Bisection finds where a sample's decision changes, to a bit with each halving."""

import torch

from fastadv.attacks.methods.bisection import Interval, halve, middle


def test_each_halving_finds_a_bit_of_the_boundary() -> None:
    boundary = torch.rand(50, dtype=torch.float64)
    rows = Interval()
    rows.low, rows.high = torch.zeros_like(boundary), torch.ones_like(boundary)
    for halvings in range(1, 31):
        halve(rows, middle(rows) >= boundary)
        assert torch.equal(rows.high - rows.low, torch.full_like(boundary, 0.5**halvings))
        assert ((rows.low <= boundary) & (boundary <= rows.high)).all()
        assert torch.equal(rows.low, (boundary * 2**halvings).floor() / 2**halvings)
