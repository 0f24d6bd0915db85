"""Channels-last while training, if the model allows it: that makes convolutions faster."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastadv.engine.rewrite import has_conv2d
from fastadv.train._feed import first_rows
from fastadv.train._steps import Steps


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(
        memory_format=torch.channels_last if tensor.ndim == 4 else torch.preserve_format
    )


def allows_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Try whether the model runs with channels-last weights; one with `view` after a convolution fails.

    It is tried on copies of the tensors, in the model's own mode. False for a model that is not contiguous.
    """
    if not has_conv2d(model) or not all(parameter.is_contiguous() for parameter in model.parameters()):
        return False
    state = {name: _channels_last(tensor) for name, tensor in model.state_dict().items()}
    cuda = [x.device] if x.is_cuda else []
    try:
        with torch.random.fork_rng(devices=cuda), torch.no_grad():
            functional_call(model, state, (x,))
    except Exception:  # whatever fails in this layout may work in the other
        return False
    return True


@contextmanager
def fast_layout(steps: Steps) -> Iterator[None]:
    """Give the model the fastest layout, inside; it is contiguous afterwards."""
    device = steps.losses.values.device
    # on a GPU without tensor cores the contiguous layout is faster
    faster = device.type != "cuda" or steps.execution.precision == "bf16"
    x, _, _ = first_rows(steps.train_set, 2)
    if not (faster and allows_channels_last(steps.model, x.to(device))):
        yield
        return
    set_layout(steps.model, steps.optimizer, torch.channels_last)
    try:
        yield
    finally:
        # a generator that is still open when the interpreter ends finds torch half gone
        if not sys.is_finalizing():
            set_layout(steps.model, steps.optimizer, torch.contiguous_format)


def set_layout(
    model: nn.Module, optimizer: torch.optim.Optimizer, memory_format: torch.memory_format
) -> None:
    """Change the layout of the weights and of the optimizer's state, not the values."""
    with torch.inference_mode(False):
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
        for parameter, held in optimizer.state.items():
            for name, value in held.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    held[name] = torch.empty_like(parameter).copy_(value)
