"""sparse_rs: best with some of the coordinates in which it differs from x sent back, and others to an end.

A proposal of Sparse-RS (Croce et al. 2022, algorithm 1). Of the coordinates that differ, those with the
`leaving` largest random words become x. Of all that are then x, and in the mask, those with the smallest
words come, until the set has `count`: to the other end of the box where best is at one, and else to that
which the lowest bit of the word chooses. The lower index is first among equals.
"""

from collections.abc import Iterator
from math import inf

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.ops import philox
from fastadv.ops._rows import Box, check_column, check_like, check_tensor, limits
from fastadv.ops._samples import SHAPES, batch, within
from fastadv.ops.registration.library import Sample, op, register


def reference(
    best: Tensor, x: Tensor, ids: Tensor, leaving: Tensor, count: Tensor, lo: float, hi: float, seed: int,
    draw: int, mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    now, then = best.flatten(1), x.flatten(1)
    words = philox.words(ids, now.shape[1], seed, draw)
    low, high = x.new_tensor(lo), x.new_tensor(hi)
    end = torch.where((now == low) | ((now != high) & (words & 1).bool()), high, low)
    moved = now != then
    left = moved & (_rank(words ^ philox.MASK, moved) < leaving[:, None])
    free = ~moved | left if mask is None else (~moved | left) & mask.flatten(1)
    comes = free & (_rank(words, free) < (count - (moved & ~left).sum(1))[:, None])
    return torch.where(comes, end, torch.where(left, then, now)).reshape(x.shape)


def _rank(words: Tensor, among: Tensor) -> Tensor:
    """Return how many words of the coordinates `among` are smaller, or as small at a lower index."""
    return words.masked_fill(~among, philox.MASK + 1).argsort(dim=1, stable=True).argsort(dim=1)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate((*SHAPES, (3, 2000))):
        best, _, x = batch(shape, device, dtype, seed)
        draw = torch.Generator().manual_seed(seed)
        ids = torch.arange(shape[0], device=device) * (2**33 + 1)
        mask = (torch.rand(shape, generator=draw) < 0.4).to(device)
        few = torch.where((torch.rand(shape, generator=draw) < 0.1).to(device), best, x)
        for start, leaving, count in (
            (x, 0, 3),
            (few, 2, 20),
            (best, 5, 7),
            (few, 0, 0),
            (best, 10**6, 10**6),
        ):
            limits = (torch.full(shape[:1], number, device=device) for number in (leaving, count))
            yield start, x, ids, *limits, 0.0, 1.0, seed, 1
        limits = (torch.randint(12, shape[:1], generator=draw).to(device) for _ in range(2))
        last = (t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in (few, x))
        yield *last, ids, *limits, -0.3, 1.0, 2**40, 2**32 - 1, mask


register(
    name="sparse_rs",
    schema="(Tensor best, Tensor x, Tensor ids, Tensor leaving, Tensor count, float lo, float hi, "
    "int seed, int draw, Tensor? mask=None) -> Tensor",
    summary="a proposal of Sparse-RS: coordinates back at x, and as many others at an end of the box",
    reference=reference,
    samples=samples,
    compare=within(0),
    no_gradient="proposals of a random search are taken from no graph",
    ordered=True,
    bytes_moved=lambda best, *rest: 3 * best.nbytes,
    flops=lambda best, *rest: 25 * best.numel(),
)


def sparse_rs(
    best: Tensor, x: Tensor, ids: Tensor, leaving: Tensor, count: Tensor, box: Box = (0.0, 1.0),
    seed: int = 0, draw: int = 0, mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return best [B, ...] with `leaving` of the coordinates that differ back at x, and others at an end.

    ids, leaving, count: int64 [B]. mask: bool like best, where coordinates may go.
    """
    check_like(best, x=x)
    for name, value in (("ids", ids), ("leaving", leaving), ("count", count)):
        check_column(name, value, best, torch.int64)
    if mask is not None:
        check_tensor("mask", mask, best.shape, torch.bool)
    philox.check_stream(seed, draw)
    lo, hi = limits(box)
    if hi - lo == inf:
        raise InputError(f"box: expected a finite one, to whose ends coordinates go, got {box}")
    return op("sparse_rs")(best, x, ids, leaving, count, lo, hi, seed, draw, mask)
