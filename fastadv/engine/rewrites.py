"""All rewrites, in the order in which they are tried; here those of layouts and of thin convolutions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from fastadv._torch import holds_compiled
from fastadv.engine.module import device_of
from fastadv.engine.precision import rounds_as
from fastadv.engine.rewrite import Rewrite, convolutions, follows, has_batch_norm, has_conv2d, on_cpu, unseen
from fastadv.engine.winograd import WINOGRAD, Settings, takes_settings
from fastadv.ops.thin_gradient import MOST_CHANNELS, thin_gradient

WIDE = 32  # channels
EIGHT = 8  # channels that the tensor cores of a GPU take at once


def lay_out(model: nn.Module, channels_last: bool) -> None:
    """Lay out the four-dimensional tensors of a copy; kernels of 1 by 1 stay in their memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.ndim == 4):
        if tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
            strides = torch.empty_like(tensor, device="meta", memory_format=layout).stride()
            tensor.data = tensor.data.as_strided(tensor.shape, strides)
        else:
            tensor.data = tensor.data.to(memory_format=layout)


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    last = channels_last and x.ndim == 4
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def view_or_reshape(input: Tensor, *shape: Any, **named: Any) -> Any:
    """Replace `torch.Tensor.view` by `reshape` where the copy has another memory order than the model."""
    if input.is_contiguous():
        return NotImplemented
    try:
        return input.view(*shape, **named)
    except RuntimeError:
        return input.reshape(*shape, **named)


def gains_on_gpu(model: nn.Module, format: torch.dtype | str | None) -> bool:
    """Return whether a GPU convolves faster so: on tensor cores, which take channels by eights."""
    channels = [part.out_channels for part in convolutions(model)]
    by_eights = max(channels, default=0) >= WIDE and not any(count % EIGHT for count in channels)
    return by_eights and format in ("tf32", torch.bfloat16, torch.float16)


def _applies(model: nn.Module, dtype: torch.dtype | None) -> bool:
    """Return whether convolutions are faster so: on a CPU wide ones, and Winograd's; others lose."""
    device = device_of(model)
    if device is not None and device.type != "cpu":
        return gains_on_gpu(model, rounds_as(dtype, device))
    square = (3, 3), (1, 1)
    return any(
        part.out_channels >= WIDE or (part.kernel_size, part.stride) == square for part in convolutions(model)
    )


CHANNELS_LAST = Rewrite(
    "channels-last", _applies, lambda dtype: {Tensor.view: view_or_reshape}, "view as reshape"
)


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
            by_input = conv2d_input(size, weight, gradient, how.stride, how.padding, how.dilation)  # type: ignore[no-untyped-call]
            return by_input, None, None, None
        by_input = thin_gradient(gradient, weight, ctx.size[1:], how.stride, how.padding, how.dilation)
        return laid_out(by_input, ctx.last), None, None, None


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


THIN = Rewrite(
    "thin",
    lambda model, dtype: on_cpu(model) and has_conv2d(model),
    lambda dtype: {F.conv2d: thin_conv2d},
    "thin input convolution",
)
FOLD = Rewrite("fold", lambda model, dtype: has_batch_norm(model))

REWRITES = (FOLD, WINOGRAD, THIN, CHANNELS_LAST)


def applicable(model: nn.Module, dtype: torch.dtype | None) -> list[Rewrite]:
    """Return the rewrites for a model that is to compute in `dtype`."""
    if any(map(holds_compiled, model.modules())):  # a compiler has looked at its parts
        return []
    return [rewrite for rewrite in REWRITES if rewrite.applies(model, dtype)]
