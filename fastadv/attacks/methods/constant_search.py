"""The search for the constant that weighs the margin against the distance, of each sample by itself."""

from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.look import Look
from fastadv.attacks.core.search import Search

# a run that shortens the distance by less than this share has brought nothing
LEAST_GAIN = 1e-3
RAISE, LOWER = 10.0, 4.0


def begin(search: Search) -> None:
    """Before the first run: nothing is known of the constants, which are rows of the search."""
    search.rows.low = torch.zeros_like(search.best.rank)
    search.rows.high = torch.full_like(search.rows.low, torch.inf)


def begin_run(search: Search) -> None:
    """Before each run: note the distances so far, to tell what it brings."""
    search.rows.before = -search.best.rank
    search.rows.hit = torch.zeros_like(search.y, dtype=torch.bool)


def fit(search: Search, needed: Tensor, factor: float, constant: float | None) -> None:
    """The first constants: the caller's, or `factor` times what each sample is thought to need [n]."""
    wanted = factor * needed
    wanted = torch.where(wanted.isfinite() & (wanted > 0), wanted, 1.0)
    search.rows.constant = wanted if constant is None else torch.full_like(wanted, constant)


def force(search: Search, look: Look) -> Tensor:
    """[n, 1, ...] what the margin's gradient counts for at these points: nothing at a success."""
    assert look.loss is not None
    push = torch.where(look.loss < 0, search.rows.constant, 0.0).to(search.rows.constant.dtype)
    return push.view(-1, *[1] * (search.x.ndim - 1))


def bisect(search: Search) -> Tensor:
    """After each run: the next constants; return bool [n], the samples whose search is at its end.

    A constant is `rows.hit` or not, by whether its run met a success. Between two that differ the next one
    lies at their geometric mean. A sample is done when a hit brought no shorter distance.
    """
    rows: Any = search.rows
    rows.high = torch.where(rows.hit, rows.constant, rows.high)
    rows.low = torch.where(rows.hit, rows.low, rows.constant)
    below = torch.where(rows.low > 0, (rows.low * rows.high).sqrt(), rows.high / LOWER)
    rows.constant = torch.where(rows.high.isinf(), RAISE * rows.low, below)
    done: Tensor = rows.hit & (-search.best.rank > rows.before * (1 - LEAST_GAIN))
    return done
