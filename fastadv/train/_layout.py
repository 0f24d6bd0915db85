"""The order in which a model's weights lie in memory while it trains."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastadv import rng
from fastadv.engine.precision import rounds_as
from fastadv.engine.rewrite import has_conv2d
from fastadv.engine.rewrites import gains_on_gpu
from fastadv.runs.identity import unsaved
from fastadv.train._steps import Steps


def _writes_out_of_bounds(part: nn.Module) -> bool:
    """Tell whether oneDNN's channels-last weight gradient may corrupt memory (uxlfoundation/oneDNN#6035)."""
    return (
        isinstance(part, nn.Conv2d)
        and set(part.kernel_size) == {1}
        and set(part.stride) != {1}
        and part.in_channels // part.groups < 16
    )


def allows_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Try, on copies, whether the model runs with channels-last weights, as one with `view` may not."""
    if not has_conv2d(model) or not all(parameter.is_contiguous() for parameter in model.parameters()):
        return False
    if not x.is_cuda and any(_writes_out_of_bounds(part) for part in model.modules()):
        return False
    last, same = torch.channels_last, torch.preserve_format
    state = {
        name: tensor.detach().clone(memory_format=last if tensor.ndim == 4 else same)
        for name, tensor in (model.state_dict() | unsaved(model)).items()
    }
    try:
        with rng.generators_kept(x.device), torch.no_grad():
            functional_call(model, state, (x,))
    except Exception:  # whatever fails in this layout may work in the other
        return False
    return True


@contextmanager
def fast_layout(steps: Steps) -> Iterator[None]:
    """Give the model the fastest layout, inside; it is contiguous afterwards."""
    model, device = steps.model, steps.feed.device
    x, _, _ = steps.feed.first(2)
    half = torch.bfloat16 if steps.execution.precision == "bf16" else None
    # Channels-last is faster on a CPU always, as far as is known
    gains = device.type != "cuda" or gains_on_gpu(model, half or rounds_as(torch.float32, device))
    if not (gains and allows_channels_last(model, x)):
        yield
        return
    set_layout(model, steps.optimizer, torch.channels_last)
    try:
        yield
    finally:
        # a generator that is still open when the interpreter ends finds torch half gone
        if not sys.is_finalizing():
            set_layout(model, steps.optimizer, torch.contiguous_format)


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
