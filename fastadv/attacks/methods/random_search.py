"""Random search by scores: each sample keeps its best point, and moves only where the loss rises."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastadv.attacks.core import Common, Search
from fastadv.attacks.core.record import Climb
from fastadv.losses import Loss
from fastadv.ops.keep_best import keep_best_

SCHEDULED = 10_000


def search_loss(common: Common) -> Loss | None:
    """Cross-entropy where targets are given without a criterion; else None, the margin of the criterion."""
    targeted = common.get("targets") is not None and common.get("criterion") is None
    return "ce" if targeted else None


def ends_behind(query: int, queries: int, ends: Sequence[int], rescale: bool) -> int:
    """Return how many ends a query lies behind; they are meant for 10,000 queries, or `rescale`d."""
    place = query * SCHEDULED // queries if rescale else query
    return sum(place > end for end in ends)


def random_search(
    search: Search[Climb], queries: int, start: Callable[[], Tensor], propose: Callable[[int], Tensor]
) -> None:
    """Look at `start()`, then for each further query at `propose(query)`, which changes `rows.best`."""
    rows = search.rows
    for query in range(queries):
        if query:
            points = propose(query)
        else:
            points = start()
            rows.best = points.clone()
            rows.loss = search.full(-torch.inf)
        look = search.score(points)
        none = torch.zeros_like(look.adversarial)
        keep_best_(rows.best, rows.loss, none, look.x_adv, look.loss.to(rows.loss.dtype), none)
