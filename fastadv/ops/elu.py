"""elu: x where x > 0, scale (exp(x) - 1) elsewhere; elu_gradient: its gradient.

That is 1 where x > 0, and scale exp(x) elsewhere. The result does not tell it: it rounds to -scale where the
gradient is still far from 0, in bfloat16 from x = -6 on.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_number
from fastadv.ops._rows import check_like, wide
from fastadv.ops._samples import SHAPES, assert_ulps, batch, layouts, within
from fastadv.ops.registration.library import OpCard, Sample, op, register

SCALES = (1.0, 0.5, 0.0, -0.5)  # tried in the samples


def reference(x: Tensor, scale: float) -> Tensor:
    real = x.to(wide(x.dtype))
    return torch.where(real > 0, real, scale * real.expm1()).to(x.dtype)


def reference_gradient(gradient: Tensor, x: Tensor, scale: float) -> Tensor:
    real = x.to(wide(x.dtype))
    own = torch.where(real > 0, 1.0, scale * real.exp())
    return (gradient.to(own.dtype) * own).to(gradient.dtype)


def compare_gradient(actual: Tensor, expected: Tensor, args: Sample) -> None:
    # without a fused multiply-add, e^x is as near as half an ulp of an x down to -87; beyond it is 0 in C++
    assert_ulps(actual, expected, 64 if actual.dtype == torch.float32 else 1, floor=1e-36)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate(SHAPES):
        # gradients of all sizes, some of them NaN and infinite
        for _, values, _ in layouts(*batch(shape, device, dtype, seed)):
            for scale in SCALES:
                yield values, scale


def samples_of_gradient(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (x, scale) in enumerate(samples(device, dtype)):
        draw = torch.Generator().manual_seed(seed)
        yield torch.randn(x.shape, generator=draw).to(x), x, scale


def _setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, ctx.scale = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    return torch.ops.fastadv.elu_gradient(gradient, x, ctx.scale), None


def _setup_gradient(ctx: Any, inputs: Any, output: Tensor) -> None:
    gradient, x, ctx.scale = inputs
    ctx.save_for_backward(gradient, x)


def _backward_gradient(ctx: Any, further: Tensor) -> tuple[Tensor, Tensor, None]:
    gradient, x = ctx.saved_tensors
    times_own = torch.ops.fastadv.elu_gradient
    # scale exp(x) is its own derivative
    bent = times_own(further * gradient, x, ctx.scale).masked_fill(x > 0, 0.0)
    return times_own(further, x, ctx.scale), bent, None


register(
    OpCard(
        name="elu_gradient",
        schema="(Tensor gradient, Tensor x, float scale) -> Tensor",
        summary="g · (1 where x > 0, α eˣ elsewhere)",
        reference=reference_gradient,
        samples=samples_of_gradient,
        compare=compare_gradient,
        gradient=(_setup_gradient, _backward_gradient),
        bytes_moved=lambda gradient, *rest: 3 * gradient.nbytes,
        flops=lambda gradient, *rest: 20 * gradient.numel(),
    )
)
register(
    OpCard(
        name="elu",
        schema="(Tensor x, float scale) -> Tensor",
        summary="x where x > 0, α (eˣ − 1) elsewhere",
        reference=reference,
        samples=samples,
        # e^x - 1 next to 0 loses the digits of x, not those of 1
        compare=within(2, 2e-7),
        gradient=(_setup, _backward),
        bytes_moved=lambda x, *rest: 2 * x.nbytes,
        flops=lambda x, *rest: 20 * x.numel(),
    )
)

_new, _new_gradient = op("elu"), op("elu_gradient")


def elu(x: Tensor, scale: float = 1.0) -> Tensor:
    """Return x where x > 0, scale (exp(x) - 1) elsewhere, like x [B, ...].

    It is differentiable any number of times. Raises InputError for anything but a floating batch of rank
    >= 2, and unless scale is a finite number.
    """
    check_like(x)
    return _new(x, check_number("scale", scale))


def elu_gradient(gradient: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
    """Return the gradient to x [B, ...] of `elu(x, scale)`, given the gradient to its value, like x.

    Raises InputError for tensors that do not match, and unless scale is a finite number.
    """
    check_like(gradient, x=x)
    return _new_gradient(gradient, x, check_number("scale", scale))
