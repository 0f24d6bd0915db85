"""distance: ||x_adv - x||_p of each row in float64, for any p >= 0, and whether it lies in the box."""

from collections.abc import Iterator
from math import inf
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_number
from fastadv.ops._rows import NO_BOX, Box, check_like, clamp_box, limits
from fastadv.ops._samples import SHAPES, assert_ulps, batch, layouts
from fastadv.ops.registration.library import Sample, op, register

ORDERS = (inf, 2.0, 1.0, 0.0, 3.0)  # tried in the samples; any other order works


def reference(x_adv: Tensor, x: Tensor, order: float, lo: float, hi: float) -> tuple[Tensor, Tensor]:
    away = (x_adv.double() - x.double()).flatten(1)
    # a clamp that changes nothing: the box as x_adv's own dtype rounds it
    inside = (clamp_box(x_adv, lo, hi) == x_adv).flatten(1).all(1)
    return torch.linalg.vector_norm(away, order, dim=1), inside


def fake(x_adv: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    rows = x_adv.shape[:1]
    return x_adv.new_empty(rows, dtype=torch.float64), x_adv.new_empty(rows, dtype=torch.bool)


def compare(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], args: Sample) -> None:
    # sums of thousands of terms in another order; a power and its root
    assert_ulps(actual[0], expected[0], 1 << 10)
    assert torch.equal(actual[1], expected[1])


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate(SHAPES):
        x_adv, grad, x = batch(shape, device, dtype, seed)
        for order in ORDERS:
            for near, _, center in layouts(x_adv, grad, x):
                yield near, center, order, 0.0, 1.0
            if shape != (3, 7) and order != ORDERS[seed % len(ORDERS)]:
                continue
            yield x_adv, x, order, 0.1, 0.9
            # NaN and infinite coordinates
            yield grad, x, order, *NO_BOX
            yield x, grad, order, *NO_BOX
            yield x, x, order, 0.0, 1.0


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.mark_non_differentiable(output[1])
    ctx.rest = inputs[2:]


def _backward(ctx: Any, by_distance: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        out, _ = reference(*leaves, *ctx.rest)
    return *torch.autograd.grad(out, leaves, by_distance), None, None, None


register(
    name="distance",
    schema="(Tensor x_adv, Tensor x, float order, float lo, float hi) -> (Tensor distance, Tensor inside)",
    summary="‖x_adv − x‖ₚ per sample, and whether it is in the box",
    reference=reference,
    fake=fake,
    samples=samples,
    compare=compare,
    gradient=(_setup, _backward),
    bytes_moved=lambda x_adv, *rest: 2 * x_adv.nbytes,
    flops=lambda x_adv, *rest: 3 * x_adv.numel(),
)


_new = op("distance")


def distance(x_adv: Tensor, x: Tensor, order: float, box: Box = NO_BOX) -> tuple[Tensor, Tensor]:
    """Return ||x_adv - x|| of each sample, float64 [B], and whether x_adv is in the box, bool [B]."""
    if x_adv.dtype is not x.dtype:
        common = torch.promote_types(x_adv.dtype, x.dtype)
        x_adv, x = x_adv.to(common), x.to(common)
    check_like(x_adv, x=x)
    order = check_number("order", order, 0, finite=False)
    length, inside = _new(x_adv, x, order, *limits(box))
    return length, inside
