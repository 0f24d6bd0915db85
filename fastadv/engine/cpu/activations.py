"""Activations by this library's kernels."""

from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv.engine.lens import Way, follows, unseen
from fastadv.engine.rewrite import Rewrite, may_round, on_cpu
from fastadv.ops.elu import elu
from fastadv.ops.relu_gradient import relu_gradient

DTYPES = (torch.float32, torch.bfloat16)
# elements from which an op gains, and from which it is tried: with fewer, calling it costs more than it saves
LEAST, FEWEST = 1 << 16, 1 << 12


def _suits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in DTYPES and x.ndim >= 2 and x.numel() >= min(FEWEST, LEAST)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        out = F.relu(x, inplace)
        if inplace:
            ctx.mark_dirty(out)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @unseen
    def backward(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, None]:
        (out,) = saved
        if gradient.stride() != out.stride():  # as after a mean: the next function wants the layout of `out`
            gradient = torch.empty_like(out).copy_(gradient)
        return relu_gradient(gradient, out), None


def _is_large(input: Tensor, *rest: Any, **named: Any) -> bool:
    return input.numel() >= LEAST


def fast_relu(input: Tensor, inplace: bool = False) -> Any:
    """Replace `torch.nn.functional.relu` by one with a faster derivative."""
    if not (follows(input) and _suits(input)):
        return NotImplemented
    return _ReLU.apply(input, inplace)  # type: ignore[no-untyped-call]


def fast_elu(input: Tensor, *rest: Any, **named: Any) -> Any:
    """Replace `torch.nn.functional.elu` by this library's op, except in place."""
    scale = rest[0] if rest else named.get("alpha", 1.0)
    inplace = rest[1] if len(rest) > 1 else named.get("inplace", False)
    suits = not inplace and _suits(input) and isfinite(scale)
    return elu(input, float(scale)) if suits else NotImplemented


NOTE = "fast activations"
RELUS = dict.fromkeys((F.relu, torch.relu, Tensor.relu), Way(fast_relu, _is_large))
RELU = Rewrite("relu", NOTE, on_cpu, RELUS, exact=True)
ELU = Rewrite("elu", NOTE, may_round, {F.elu: Way(fast_elu, _is_large)})
