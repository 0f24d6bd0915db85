"""Layers of a twin that a CPU library does slowly, done otherwise."""

from math import isfinite
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fastadv.engine.calls import Calls, replace_calls
from fastadv.engine.onednn import fast_linear
from fastadv.ops import elu, relu_slope

DTYPES = (torch.float32, torch.bfloat16)
LEAST = 1 << 16  # elements; calling an op from Python and back costs as much as fewer gain


def _suits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in DTYPES and x.ndim >= 2 and x.numel() >= LEAST


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        out = F.relu(x, inplace)
        if inplace:
            ctx.mark_dirty(out)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return relu_slope(gradient, *ctx.saved_tensors), None


def fast_relu(input: Tensor, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.relu` with a faster derivative."""
    follows = input.requires_grad and torch.is_grad_enabled()
    if not (follows and _suits(input)) or (inplace and input._is_view()):
        return F.relu(input, inplace)
    out: Tensor = _ReLU.apply(input, inplace)  # type: ignore[no-untyped-call]
    return out


def fast_elu(input: Tensor, scale: float = 1.0, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.elu` by this library's op, which is not done in place."""
    suits = _suits(input) and isfinite(scale) and not inplace
    return elu(input, scale) if suits else F.elu(input, scale, inplace)


class FastReLU(nn.ReLU):
    """The layer by that function."""

    def forward(self, input: Tensor) -> Tensor:
        return fast_relu(input, self.inplace)


class FastELU(nn.ELU):
    """The layer by that function."""

    def forward(self, input: Tensor) -> Tensor:
        return fast_elu(input, self.alpha, self.inplace)


class CoveringConv2d(nn.Conv2d):
    """A convolution that is a product of matrices where its kernel covers the image, and so moves nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        # a subclass may be padded
        if x.ndim != 4 or x.shape[2:] != self.weight.shape[2:] or not _may_cover(self):
            return super().forward(x)
        rows, weights = x, self.weight
        if x.is_contiguous(memory_format=torch.channels_last):
            rows, weights = (values.permute(0, 2, 3, 1) for values in (x, weights))
        return fast_linear(rows.flatten(1), weights.flatten(1), self.bias)[:, :, None, None]


LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.ReLU: FastReLU,
    nn.ELU: FastELU,
    nn.Conv2d: CoveringConv2d,
}
CALLS: Calls = {
    ("call_function", F.relu): (F.relu, fast_relu),
    ("call_function", torch.relu): (F.relu, fast_relu),
    ("call_method", "relu"): (F.relu, fast_relu),
    ("call_function", F.elu): (F.elu, fast_elu),
}
EXACT = (FastReLU, fast_relu)  # they leave the forward pass as it is, to the last bit


def hasten(model: nn.Module, *, exactly: bool) -> int:
    """Let such layers of a twin that runs on a CPU be done so, in place; the number of activations.

    `exactly`: only those whose values stay the same to the last bit.
    """
    tensor = next(model.parameters(), None)
    if tensor is None or tensor.device.type != "cpu":
        return 0
    count = 0
    for part in model.modules():
        own = LAYERS.get(type(part))
        covers = own is CoveringConv2d
        if own is not None and (own in EXACT or not exactly) and (not covers or _may_cover(part)):
            part.__class__ = own
            count += not covers
        if isinstance(part, fx.GraphModule):
            calls = {call: to for call, to in CALLS.items() if to[1] in EXACT or not exactly}
            count += replace_calls(part, calls)
    return count


def _may_cover(part: Any) -> bool:
    """Whether a convolution meets no padding where its kernel covers the image."""
    plain = part.groups == 1 and part.padding in ((0, 0), "valid") and part.dilation == (1, 1)
    return plain and part.kernel_size != (1, 1)
