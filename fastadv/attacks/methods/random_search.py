"""Random search by scores: each sample keeps its best point, and moves only where the loss rises."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastadv._waiting import LONGEST_SEGMENT
from fastadv.attacks.core import WRONG, Search, Task, repeat
from fastadv.attacks.core.record import Climb
from fastadv.losses import Loss
from fastadv.ops.keep_best import keep_best_

SCHEDULED = 10_000


def search_loss(task: Task) -> Loss | None:
    """Cross-entropy where targets are given without a criterion; else None, the margin of the criterion."""
    targeted = task.targets is not None and task.criterion is WRONG and task.classifier.outputs == "classes"
    return "ce" if targeted else None


def ends_behind(query: int, queries: int, ends: Sequence[int], rescale: bool) -> int:
    """Return how many ends a query lies behind; they are meant for 10,000 queries, or `rescale`d."""
    place = query * SCHEDULED // queries if rescale else query
    return sum(place > end for end in ends)


def random_search(
    search: Search[Any], queries: int, start: Callable[[Search[Any]], Tensor],
    propose: Callable[[Search[Any], int], Tensor],
) -> None:  # fmt: skip
    """Look at `start(search)`, then for each query at `propose(search, query)`, which changes `rows.best`."""
    if not queries:
        return
    rows, search.evaluations = search.rows, LONGEST_SEGMENT - 1  # samples leave after the start, on a GPU too
    rows.points = start(search)
    rows.best, rows.loss = rows.points.clone(), search.full(-torch.inf)

    def before(number: int, search: Search[Climb]) -> None:
        search.rows.points = propose(search, number + 1)

    _query(search)
    repeat(search, _query, queries - 1, "query", passes=(1, 0), before=before)


def _query(search: Search[Climb]) -> None:
    """Ask about `rows.points`, and keep them where the loss is larger."""
    rows, look = search.rows, search.score(search.rows.points)
    none = torch.zeros_like(look.adversarial)
    keep_best_(rows.best, rows.loss, none, look.x_adv, look.loss.to(rows.loss.dtype), none)
