"""relu_gradient: the gradient of relu, from its result: g where y > 0, 0 where y = 0; where y is NaN, g."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastadv.ops._rows import check_like
from fastadv.ops._samples import SHAPES, batch, layouts, within
from fastadv.ops.registration.library import OpCard, Sample, op, register


def reference(gradient: Tensor, value: Tensor) -> Tensor:
    return torch.where(value <= 0, 0.0, gradient)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate(SHAPES):
        # NaN and infinity in either
        for first, second, third in layouts(*batch(shape, device, dtype, seed)):
            yield second, (first - third).relu()
            yield first, second


def _setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, further: Tensor) -> tuple[Tensor, None]:
    (value,) = ctx.saved_tensors
    return torch.ops.fastadv.relu_gradient(further, value), None  # flat in the value


register(
    OpCard(
        name="relu_gradient",
        schema="(Tensor gradient, Tensor value) -> Tensor",
        summary="g where y > 0, 0 elsewhere",
        reference=reference,
        samples=samples,
        compare=within(0),
        gradient=(_setup, _backward),
        bytes_moved=lambda gradient, *rest: 3 * gradient.nbytes,
        flops=lambda gradient, *rest: gradient.numel(),
    )
)

_new = op("relu_gradient")


def relu_gradient(gradient: Tensor, value: Tensor) -> Tensor:
    """Return the gradient to x [B, ...] of relu(x), given its value and the gradient to that, both like x.

    Raises InputError for tensors that do not match.
    """
    check_like(gradient, value=value)
    return _new(gradient, value)
