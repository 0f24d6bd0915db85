"""Random search by scores: each sample keeps its best point, and moves only where the loss rises."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastadv import ops
from fastadv.attacks.core.common import Common
from fastadv.attacks.core.search import Search
from fastadv.losses import Loss

SCHEDULED = 10_000


def search_loss(common: Common) -> Loss | None:
    """Cross-entropy where targets are given without a criterion; else None, the margin of the criterion."""
    targeted = common.get("targets") is not None and common.get("criterion") is None
    return "ce" if targeted else None


def passed(query: int, queries: int, ends: Sequence[int], rescale: bool) -> int:
    """How many of the ends a query lies behind. They are meant for 10,000 queries; `rescale` fits them."""
    place = query * SCHEDULED // queries if rescale else query
    return sum(place > end for end in ends)


def random_search(
    search: Search, queries: int, start: Callable[[], Tensor], propose: Callable[[int], Tensor]
) -> None:
    """Look at `start()`, then at `propose(query)` for each further query, from 1 on.

    `search.rows.best` [n, ...] are the points of the largest loss so far, which proposals change. With 0
    queries nothing is looked at.
    """
    rows = search.rows
    for query in range(queries):
        if query:
            points = propose(query)
        else:
            points = start()
            rows.best = points.clone()
            rows.loss = torch.full_like(search.best.rank, -torch.inf)
        look = search.decide(points, search.plan.loss)
        assert look.loss is not None
        none = torch.zeros_like(look.adversarial)
        ops.keep_best_(rows.best, rows.loss, none, look.x_adv, look.loss.to(rows.loss.dtype), none)
