"""Bisection of an interval of each sample, such as of the constant that weighs margin against distance."""

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


def reset(search: Search[Constants]) -> None:
    search.rows.low = search.full(0.0)
    search.rows.high = torch.full_like(search.rows.low, torch.inf)


def begin_run(search: Search[Constants]) -> None:
    """Note the distances so far, before each run, to tell what it brings."""
    search.rows.before = search.best.distance
    search.rows.hit = torch.zeros_like(search.ids, dtype=torch.bool)


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


def bisect_plainly(search: Search[Constants]) -> None:
    """Set the next constants as Carlini and Wagner's code does: tenfold until a success, then halving."""
    rows = search.rows
    rows.high = torch.where(rows.hit, rows.high.minimum(rows.constant), rows.high)
    rows.low = torch.where(rows.hit, rows.low, rows.low.maximum(rows.constant))
    rows.constant = torch.where(rows.high.isinf(), RAISE * rows.constant, (rows.low + rows.high) / 2)


def begin_run_plainly(search: Search[Constants], last: bool) -> None:
    """Forget what the run before met. The last of ten or more runs repeats the least constant that did."""
    rows = search.rows
    rows.hit = torch.zeros_like(search.ids, dtype=torch.bool)
    if last:
        rows.constant = torch.where(rows.high.isinf(), rows.constant, rows.high)
