"""Channels-last while training, where the model bears it: convolutions are faster so."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastadv.engine.frozen import is_conv2d


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(
        memory_format=torch.channels_last if tensor.ndim == 4 else torch.preserve_format
    )


def bears_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Whether a training forward on copies of the model's tensors works so; `view` after a convolution does not.

    A model that the caller has laid out otherwise is left as it is.
    """
    if not is_conv2d(model) or not all(parameter.is_contiguous() for parameter in model.parameters()):
        return False
    state = {name: _channels_last(tensor) for name, tensor in model.state_dict().items()}
    cuda = [x.device] if x.is_cuda else []
    try:
        with torch.random.fork_rng(devices=cuda), torch.no_grad():
            functional_call(model, state, (x,))
    except Exception:  # whatever trips over the layout, the model as it is may not
        return False
    return True


def set_layout(
    model: nn.Module, optimizer: torch.optim.Optimizer, memory_format: torch.memory_format
) -> None:
    """Give the weights, and what the optimiser holds beside each, one layout; values are the same, to the bit."""
    with torch.inference_mode(False):
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
        for parameter, held in optimizer.state.items():
            for name, value in held.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    held[name] = torch.empty_like(parameter).copy_(value)
