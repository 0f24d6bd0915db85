"""The memory layout of a copy's weights and of the points that pass it."""

from typing import Any

import torch
from torch import Tensor, nn

from fastadv._tf32 import rounds_as
from fastadv.engine.rewrite import Rewrite, Subject, convolutions, on_cpu

WIDE = 32  # channels
EIGHT = 8  # channels that the tensor cores of a GPU take at once


def lay_out(model: nn.Module, channels_last: bool) -> None:
    """Lay out the four-dimensional tensors of a copy; kernels of 1 by 1 stay in their memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (each for each in (*model.parameters(), *model.buffers()) if each.ndim == 4):
        if tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
            strides = torch.empty_like(tensor, device="meta", memory_format=layout).stride()
            tensor.data = tensor.data.as_strided(tensor.shape, strides)
        else:
            tensor.data = tensor.data.to(memory_format=layout)


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    if channels_last and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


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


def _applies(subject: Subject) -> bool:
    """Return whether convolutions are faster so: on a CPU wide ones, and Winograd's; others lose."""
    if not on_cpu(subject):
        return gains_on_gpu(subject.model, rounds_as(subject.dtype, subject.device))
    square = (3, 3), (1, 1)
    return any(
        part.out_channels >= WIDE or (part.kernel_size, part.stride) == square
        for part in convolutions(subject.model)
    )


CHANNELS_LAST = Rewrite("channels-last", "", _applies)
VIEWS = Rewrite("views", "view as reshape", _applies, {Tensor.view: view_or_reshape})
