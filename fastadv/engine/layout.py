"""The memory layout of a copy's weights and of the points that pass it."""

from typing import Any

import torch
from torch import Tensor, nn

from fastadv._tf32 import rounds_as
from fastadv.engine.rewrite import Rewrite, Subject

WIDE = 32  # channels
EIGHT = 8  # channels that the tensor cores of a GPU take at once


def lay_out(model: nn.Module, channels_last: bool, apart: bool = False) -> None:
    """Lay out the four-dimensional parameters and buffers of a copy, in place, or in memory `apart`."""
    kept = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (each for each in (*model.parameters(), *model.buffers()) if each.ndim == 4):
        # strides tell the layout of a single channel, too, which `contiguous` would leave as they are
        both = tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
        if both and not apart:
            # like a kernel of 1 by 1, which stays where the model's is
            strides = torch.empty_like(tensor, device="meta", memory_format=kept).stride()
            tensor.data = tensor.data.as_strided(tensor.shape, strides)
        else:
            tensor.data = tensor.data.to(memory_format=kept)


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    if channels_last and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def view_or_reshape(input: Tensor, *shape: Any, **named: Any) -> Any:
    """Replace `torch.Tensor.view` by `reshape` where the copy has another memory order than the model."""
    if named or input.is_contiguous() or (shape and isinstance(shape[0], torch.dtype)):
        return NotImplemented
    try:
        return input.view(*shape)
    except RuntimeError:
        return input.reshape(*shape)


def _gains(part: nn.Module) -> bool:
    """Return whether a convolution is faster so: wide ones, and Winograd's; others lose by the copies."""
    if not isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
        return False
    square = part.kernel_size == (3, 3) and part.stride == (1, 1)
    return square or part.out_channels >= WIDE


def gains_on_gpu(model: nn.Module, format: torch.dtype | str | None) -> bool:
    """Return whether a GPU convolves faster so: on tensor cores, which take channels by eights."""
    made = [part.out_channels for part in model.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]
    on_cores = format in ("tf32", torch.bfloat16, torch.float16)
    return on_cores and max(made, default=0) >= WIDE and all(channels % EIGHT == 0 for channels in made)


def _applies(subject: Subject) -> bool:
    if not subject.convolves or subject.exact:
        return False
    if subject.on_cpu:
        return any(map(_gains, subject.model.modules()))
    return gains_on_gpu(subject.model, rounds_as(subject.dtype, subject.device))


CHANNELS_LAST = Rewrite("channels-last", "", _applies)
VIEWS = Rewrite("views", "view as reshape", _applies, {Tensor.view: view_or_reshape}, exact=True)
