"""Input gradients of convolutions that read few channels, as images do, on a CPU.

The CPU library pads input channels to its vector length, so the gradient to an image of one channel costs
sixteen times what it needs (`fastadv.ops.thin_gradient`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from fastadv.ops import thin_gradient
from fastadv.ops.thin_gradient import MOST_CHANNELS


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.conv, ctx.size = conv, x.shape[2:]
        ctx.kept = (
            torch.channels_last
            if x.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        return nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        conv = ctx.conv
        if torch.is_grad_enabled():  # it is to have a derivative itself
            size = [len(gradient), conv.in_channels, *ctx.size]
            how = conv.stride, conv.padding, conv.dilation
            return conv2d_input(size, conv.weight, gradient, *how), None  # type: ignore[no-untyped-call]
        found = thin_gradient(gradient, conv.weight, ctx.size, conv.stride, conv.padding, conv.dilation)
        return found.contiguous(memory_format=ctx.kept), None


class ThinConv2d(nn.Conv2d):
    """A convolution with that gradient; weights get none."""

    def forward(self, x: Tensor) -> Tensor:
        # measured: for three channels in bfloat16 the library is faster; float16 has no kernel
        rough = x.dtype == torch.float16 or (x.dtype == torch.bfloat16 and self.in_channels > 1)
        if rough or not x.requires_grad or x.ndim != 4 or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        out: Tensor = _Convolution.apply(x, self)  # type: ignore[no-untyped-call]
        return out


def thin(model: nn.Module) -> int:
    """Give the convolutions of a twin that gain from it this gradient, in place; their number."""
    count = 0
    for part in model.modules():
        if type(part) is not nn.Conv2d or part.weight.device.type != "cpu":
            continue
        plain = part.groups == 1 and part.padding_mode == "zeros" and not isinstance(part.padding, str)
        # measured, in float32: 4 times for one channel; a third to a half for three into 32 or 64, nothing
        # with a stride or into 16
        few = part.in_channels == 1 or (part.in_channels <= MOST_CHANNELS and part.stride == (1, 1))
        if plain and few and part.out_channels >= 6 * part.in_channels:
            part.__class__ = ThinConv2d
            count += 1
    return count
