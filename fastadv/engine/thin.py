"""Input gradients of convolutions that read few channels, as images do, on a CPU.

The CPU library pads input channels to its vector length, so the gradient to an image of one channel costs
sixteen times what it needs. The same gradient is a product with the weights, [C k k, O] @ [O, L] for each
sample, and a sum of overlapping patches.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.conv, ctx.like = conv, (x.shape[2:], x.dtype, x.is_contiguous(memory_format=torch.channels_last))
        return nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        conv, (size, dtype, channels_last) = ctx.conv, ctx.like
        # in float32 also for bfloat16: overlapping patches would be summed in eight bits
        wide = torch.promote_types(dtype, torch.float32)
        patches = conv.weight.to(wide).flatten(1).t() @ gradient.to(wide).flatten(2)
        folded = nn.functional.fold(patches, size, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
        kept = torch.channels_last if channels_last else torch.contiguous_format
        return folded.to(dtype).contiguous(memory_format=kept), None


class ThinConv2d(nn.Conv2d):
    """A convolution with that gradient; weights get none, and there is no second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad or x.ndim != 4 or torch.is_autocast_enabled(x.device.type):
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
        # measured: 5 times for one channel, 2 for three into 64, nothing for three into 16
        if plain and part.in_channels <= 4 and part.out_channels >= 6 * part.in_channels:
            part.__class__ = ThinConv2d
            count += 1
    return count
