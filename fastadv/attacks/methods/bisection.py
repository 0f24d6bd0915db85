"""Bisection of an interval of each sample, such as of the constant that weighs margin against distance."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.attacks.core import Rows, ScoredLook, Search


class Interval(Rows):
    """The ends [n] of each interval."""

    low: Tensor
    high: Tensor


def middle(rows: Interval) -> Tensor:
    return (rows.low + rows.high) / 2


def halve(rows: Interval, upper: Tensor) -> None:
    """Replace one end of each interval by its middle: the upper end where `upper` bool [n] says so."""
    center = middle(rows)
    rows.low, rows.high = torch.where(upper, rows.low, center), torch.where(upper, center, rows.high)


# a run that shortens the distance by less than this share has brought nothing
LEAST_GAIN = 1e-3
RAISE, LOWER = 10.0, 4.0


class Constants(Interval):
    """The `constant` [n] of each sample, between `low` and `high`."""

    constant: Tensor
    hit: Tensor  # its run met a success
    before: Tensor  # the least distance when its run began


def runs(search: Search[Constants], searches: int) -> Iterator[int]:
    """Yield the number of each run, without constants yet, and note the distances that it is to shorten."""
    search.rows.low, search.rows.high = search.full(0.0), search.full(torch.inf)
    for number in range(searches):
        search.rows.before = search.best.distance
        search.rows.hit = torch.zeros_like(search.ids, dtype=torch.bool)
        yield number


def set_first(search: Search[Constants], needed: Tensor, factor: float, constant: float | None) -> None:
    """Set the first constants: the caller's, or `factor` times what each sample is thought to need [n]."""
    wanted = factor * needed
    wanted = torch.where(wanted.isfinite() & (wanted > 0), wanted, 1.0)
    wanted = wanted if constant is None else torch.full_like(wanted, constant)
    search.rows.constant = wanted.to(search.best.rank.dtype)


def force(search: Search[Constants], look: ScoredLook) -> Tensor:
    """Return [n, 1, ...], what the margin's gradient counts for at these points: nothing at a success."""
    push = torch.where(look.loss < 0, search.rows.constant, 0.0).to(search.rows.constant.dtype)
    return push.view(-1, *[1] * (search.x.ndim - 1))


def bisect(search: Search[Constants]) -> Tensor:
    """Set the next constants, after each run; return bool [n], who is done: no hit came nearer."""
    rows = search.rows
    rows.high = torch.where(rows.hit, rows.constant, rows.high)
    rows.low = torch.where(rows.hit, rows.low, rows.constant)
    below = torch.where(rows.low > 0, rows.low * (rows.high / rows.low).sqrt(), rows.high / LOWER)
    rows.constant = torch.where(rows.high.isinf(), RAISE * rows.low, below)
    done: Tensor = rows.hit & (search.best.distance > rows.before * (1 - LEAST_GAIN))
    return done


def plain_runs(search: Search[Constants], searches: int, constant: float) -> Iterator[int]:
    """Yield the number of each run, with the constants of Carlini and Wagner's code."""
    # Tenfold until a success, then halving. The last of ten or more runs repeats the least that had one.
    rows = search.rows
    rows.constant = search.full(constant)
    for number in runs(search, searches):
        if number == searches - 1 >= 9:
            rows.constant = torch.where(rows.high.isinf(), rows.constant, rows.high)
        yield number
        rows.high = torch.where(rows.hit, rows.high.minimum(rows.constant), rows.high)
        rows.low = torch.where(rows.hit, rows.low, rows.low.maximum(rows.constant))
        rows.constant = torch.where(rows.high.isinf(), RAISE * rows.constant, (rows.low + rows.high) / 2)
