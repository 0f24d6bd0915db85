"""sparse_rs by hand, as its random words say; the properties of its sets; and its refusals."""

from functools import partial

import pytest
import torch
from torch import Tensor

from fastadv import rng
from fastadv.ops.sparse_rs import sparse_rs
from tests.refusals import refuses


def sets(rows: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points that differ in about a fifth, some at ends of [0, 1], and x, of which a third is there, too."""
    draw = torch.Generator().manual_seed(seed)
    x = (3 * torch.rand(rows, size, generator=draw) - 1).clamp(0, 1)
    moved = torch.rand(rows, size, generator=draw) < 0.2
    return torch.where(moved, torch.rand(rows, size, generator=draw).round(decimals=1), x), x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("leaving", "count"), [(0, 3), (2, 20), (7, 9), (500, 12), (3, 500)])
def test_by_hand(leaving: int, count: int, dtype: torch.dtype) -> None:
    best, x = (part.to(dtype) for part in sets(6, 60))
    ids = torch.tensor([5, 0, 2**40, 7, 8, 9])
    mask = torch.rand(6, 60, generator=torch.Generator().manual_seed(1)) < 0.5
    part = torch.full((6,), leaving), torch.full((6,), count)
    for allowed in (None, mask):
        out = sparse_rs(best, x, ids, *part, (0.0, 1.0), 3, 4, allowed)
        drawn = rng.bits(60, 3, ids, 4)
        for row in range(6):
            words = drawn[row].tolist()
            moved = {i for i in range(60) if best[row, i] != x[row, i]}
            kept = moved - set(sorted(moved, key=lambda i: -words[i])[:leaving])
            free = [i for i in range(60) if i not in kept and (allowed is None or allowed[row, i])]
            come = sorted(free, key=lambda i: words[i])[: max(count - len(kept), 0)]
            expected = torch.where(torch.tensor([i in kept for i in range(60)]), best[row], x[row])
            for i in come:
                now = float(best[row, i])
                expected[i] = 1 - now if now in (0, 1) else words[i] & 1
            assert torch.equal(out[row], expected)


def test_wrong_arguments() -> None:
    best, x = sets(2, 9)
    one = torch.ones(2).long()
    call = partial(sparse_rs, best, x)
    refuses("x: expected", sparse_rs, best, x[:, :8], one, one, one)
    refuses("count: expected", call, one, one, one.int())
    refuses("mask: expected bool", call, one, one, one, mask=x)
    refuses("box: expected a finite one", call, one, one, one, (0.0, torch.inf))
