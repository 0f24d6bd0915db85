"""Layers of a search twin that a CPU library does slowly, done otherwise."""

from inspect import signature
from math import isfinite

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fastadv.ops import elu

DTYPES = (torch.float32, torch.bfloat16)


def fast_elu(input: Tensor, scale: float = 1.0, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.elu` by this library's op, which is not done in place."""
    suits = input.device.type == "cpu" and input.dtype in DTYPES and input.ndim >= 2 and isfinite(scale)
    return elu(input, scale) if suits and not inplace else F.elu(input, scale, inplace)


class FastELU(nn.ELU):
    """The layer by that function."""

    def forward(self, input: Tensor) -> Tensor:
        return fast_elu(input, self.alpha, self.inplace)


class CoveringConv2d(nn.Conv2d):
    """A convolution that is a product of matrices where its kernel covers the image, and so moves nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2:] != self.weight.shape[2:]:
            return super().forward(x)
        rows, weights = x, self.weight
        if x.is_contiguous(memory_format=torch.channels_last):
            rows, weights = (values.permute(0, 2, 3, 1) for values in (x, weights))
        return F.linear(rows.flatten(1), weights.flatten(1), self.bias)[:, :, None, None]


def may_cover(part: nn.Module) -> bool:
    """Whether it is a convolution that meets no padding where its kernel covers the image."""
    if type(part) is not nn.Conv2d or part.kernel_size == (1, 1):
        return False
    return part.groups == 1 and part.padding in ((0, 0), "valid") and part.dilation == (1, 1)


def hasten(model: nn.Module) -> int:
    """Let such layers of a twin that runs on a CPU be done so, in place; the number of ELUs."""
    tensor = next(model.parameters(), None)
    if tensor is None or tensor.device.type != "cpu":
        return 0
    count = 0
    for part in model.modules():
        if may_cover(part):
            part.__class__ = CoveringConv2d
        if type(part) is nn.ELU:
            part.__class__ = FastELU
            count += 1
        if isinstance(part, fx.GraphModule):
            called = [node for node in part.graph.nodes if node.target is F.elu]
            for node in called:
                given = signature(F.elu).bind(*node.args, **node.kwargs)
                given.apply_defaults()
                node.target, node.args, node.kwargs = fast_elu, given.args, {}
            if called:
                part.recompile()
            count += len(called)
    return count
