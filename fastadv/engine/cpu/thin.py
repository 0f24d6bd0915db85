"""Input gradients of convolutions that read few channels: libraries pad these to the length of a vector."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from fastadv.engine.cpu.onednn import Settings, takes_settings
from fastadv.engine.layout import laid_out
from fastadv.engine.rewrite import Rewrite, follows, on_cpu, unseen
from fastadv.ops.thin_gradient import MOST_CHANNELS, thin_gradient


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: Settings) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.how, ctx.size = how, x.shape[1:]
        ctx.last = x.is_contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, bias, how.stride, how.padding, how.dilation)

    @staticmethod
    @unseen
    def backward(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,), how = saved, ctx.how
        if torch.is_grad_enabled():  # it is to have a derivative itself
            size = [len(gradient), *ctx.size]
            found = conv2d_input(size, weight, gradient, how.stride, how.padding, how.dilation)  # type: ignore[no-untyped-call]
            return found, None, None, None
        found = thin_gradient(gradient, weight, ctx.size[1:], how.stride, how.padding, how.dilation)
        return laid_out(found, ctx.last), None, None, None


@takes_settings
def thin_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, how: Settings) -> Any:
    """Replace `torch.nn.functional.conv2d` by one with that gradient; weights get none."""
    outputs, inputs = weight.shape[:2]
    suits = input.dtype == weight.dtype and input.dtype != torch.float16 and inputs <= MOST_CHANNELS
    # measured with AVX-512, in float32: 7 to 15 times as fast for one channel, 2 to 4 times for three, no
    # faster with a stride. In bfloat16 2 times for three, unless images are large or the set is AVX2
    gains = inputs == 1 or (how.stride == (1, 1) and input.dtype != torch.bfloat16)
    if not (suits and gains and outputs >= 5 * inputs and follows(input)):
        return NotImplemented
    return _Convolution.apply(input, weight, bias, how)  # type: ignore[no-untyped-call]


THIN = Rewrite("thin", "thin input convolution", on_cpu, {F.conv2d: thin_conv2d})
