"""Several runs on the same samples at once where few are left, so that the model sees fuller batches."""

from collections.abc import Callable

import torch

from fastadv.attacks.core.record import Over
from fastadv.attacks.core.search import Search

# rows that the first runs fill: on a GPU a pass takes as long for fewer
FULL = {"cpu": 64}
FULL_ELSEWHERE = 512

# one run of a search: (search, numbers) with one number for each equal part of its rows
Runs = Callable[[Search, list[int]], None]


def side_by_side(search: Search, count: int, runs: Runs) -> None:
    """Perform `count` independent runs on each sample, on copies of samples in turn; keep the best."""
    # batches become as full as is fastest only after first runs have removed the samples that break easily
    full = FULL.get(search.x.device.type, FULL_ELSEWHERE)
    first = 0
    while first < count:
        if first or not search.plan.stop_early:
            full = max(full, search.classifier.full_batch(search.x))
        together = min(max(full // len(search.x), 1), count - first)
        numbers = list(range(first, first + together))
        if together == 1:
            search.forget()  # as copies have nothing to remember
            runs(search, numbers)
        else:
            _together(search, numbers, runs)
        search.drop_broken()
        first += together


def _together(search: Search, numbers: list[int], runs: Runs) -> None:
    copies, record = search.copied(len(numbers))
    try:
        runs(copies, numbers)
        copies.close()
    except Over:
        pass
    chunks = torch.arange(len(record.rank), device=record.rank.device).chunk(len(numbers))
    for rows in chunks:
        search.merge(record.take(rows))
