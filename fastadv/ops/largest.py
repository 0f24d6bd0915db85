"""largest: the largest absolute element of each row, read once; NaN where one is."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.ops._rows import check_like
from fastadv.ops._samples import SHAPES, batch, layouts, within
from fastadv.ops.registration.library import Sample, op, register


def reference(values: Tensor) -> Tensor:
    rows = values.flatten(1).abs()
    return rows.amax(1) if rows.shape[1] else rows.new_zeros(len(rows))


def fake(values: Tensor) -> Tensor:
    return values.new_empty(len(values))


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate((*SHAPES, (2, 0))):
        # gradients of all sizes, some rows with NaN and infinity
        for x_adv, grad, x in layouts(*batch(shape, device, dtype, seed)):
            yield (grad,)
            yield (x_adv - x,)


register(
    name="largest",
    schema="(Tensor values) -> Tensor",
    summary="max |values| per sample",
    reference=reference,
    fake=fake,
    samples=samples,
    compare=within(0),
    no_gradient="it measures what a search has found",
    bytes_moved=lambda values: values.nbytes,
    flops=lambda values: values.numel(),
)

_new = op("largest")


def largest(values: Tensor) -> Tensor:
    """Return the largest absolute value [B] of each sample of values [B, ...]; 0 where there is none."""
    check_like(values)
    return _new(values)
