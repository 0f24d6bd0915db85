"""elu: x where x > 0, alpha (exp(x) - 1) elsewhere; elu_slope: its gradient, from its result.

With y the result, dy/dx is 1 where y > 0, and y + alpha elsewhere.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_number
from fastadv._library import OpCard, Sample, register
from fastadv.ops._rows import check_like, wide
from fastadv.ops._samples import SHAPES, assert_ulps, batch, layouts

ALPHAS = (1.0, 0.5, 0.0)  # of the samples


def reference(x: Tensor, alpha: float) -> Tensor:
    real = x.to(wide(x.dtype))
    return torch.where(real > 0, real, alpha * real.expm1()).to(x.dtype)


def reference_slope(gradient: Tensor, value: Tensor, alpha: float) -> Tensor:
    real = value.to(wide(value.dtype))
    slope = torch.where(real > 0, 1.0, real + alpha)
    return (gradient.to(slope.dtype) * slope).to(gradient.dtype)


def fake(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


def fake_slope(gradient: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(gradient)


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    # e^x - 1 next to 0 loses the digits of x, not those of 1
    assert_ulps(actual, expected, 2, floor=2e-7)


def compare_slope(actual: Tensor, expected: Tensor, args: Sample) -> None:
    assert_ulps(actual, expected, 0)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate(SHAPES):
        # gradients of all sizes, some of them NaN and infinite
        for _, values, _ in layouts(*batch(shape, device, dtype, seed)):
            for alpha in ALPHAS:
                yield values, alpha


def samples_of_slope(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (x, alpha) in enumerate(samples(device, dtype)):
        draw = torch.Generator().manual_seed(seed)
        yield torch.randn(x.shape, generator=draw).to(x), reference(x, alpha), alpha


def _setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.alpha = inputs[1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (value,) = ctx.saved_tensors
    return torch.ops.fastadv.elu_slope(gradient, value, ctx.alpha), None


register(
    OpCard(
        name="elu_slope",
        schema="(Tensor gradient, Tensor value, float alpha) -> Tensor",
        summary="g · (1 where y > 0, y + α elsewhere)",
        reference=reference_slope,
        fake=fake_slope,
        samples=samples_of_slope,
        compare=compare_slope,
        no_gradient="it is a gradient itself, and taken once",
        triton=False,
        bytes_moved=lambda gradient, *rest: 3 * gradient.numel() * gradient.element_size(),
        flops=lambda gradient, *rest: 2 * gradient.numel(),
    )
)
register(
    OpCard(
        name="elu",
        schema="(Tensor x, float alpha) -> Tensor",
        summary="x where x > 0, α (eˣ − 1) elsewhere",
        reference=reference,
        fake=fake,
        samples=samples,
        compare=compare,
        gradient=(_setup, _backward),
        triton=False,
        bytes_moved=lambda x, *rest: 2 * x.numel() * x.element_size(),
        flops=lambda x, *rest: 20 * x.numel(),
    )
)

_new, _slope = torch.ops.fastadv.elu.default, torch.ops.fastadv.elu_slope.default


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where x > 0, alpha (exp(x) - 1) elsewhere, like x [B, ...]; it has a first derivative, and no second.

    Raises InputError for anything but a floating batch of rank >= 2, and for an alpha below 0: the result
    would not tell the slope.
    """
    check_like(x)
    result: Tensor = _new(x, check_number("alpha", alpha, 0))
    return result


def elu_slope(gradient: Tensor, value: Tensor, alpha: float = 1.0) -> Tensor:
    """The gradient to x [B, ...] of `elu(x, alpha)`, given its value and the gradient to that, both like x.

    Raises InputError for tensors that do not match, and for an alpha below 0.
    """
    check_like(gradient, value=value)
    result: Tensor = _slope(gradient, value, check_number("alpha", alpha, 0))
    return result
