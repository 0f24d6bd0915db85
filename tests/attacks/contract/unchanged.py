"""What an attack must leave as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..nets import convnet, images


@contextmanager
def unchanged(model: nn.Module, *tensors: Tensor) -> Iterator[None]:
    """Whatever an attack could disturb of the model, the inputs and the process is as it was before."""

    def structure() -> list[object]:
        parts = list(model.modules())
        return [
            [(p.requires_grad, p.data_ptr(), p._version) for p in model.parameters()],
            [(b.data_ptr(), b._version) for b in model.buffers()],
            [len(part.sizes) for part in parts if isinstance(part, Tally)],
            [part.training for part in parts],
            [
                len(part._forward_hooks) + len(part._backward_hooks) + len(part._forward_pre_hooks)
                for part in parts
            ],
            [t._version for t in tensors],
            (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        ]

    def values() -> list[Tensor]:
        state = [
            *model.state_dict().values(),
            *(p.grad for p in model.parameters() if p.grad is not None),
            *tensors,
        ]
        return [t.detach().clone() for t in [*state, torch.get_rng_state()]]

    before, seen = structure(), values()
    try:
        yield
    finally:
        assert structure() == before
        assert len(values()) == len(seen)
        assert all(torch.equal(now, then) for now, then in zip(values(), seen, strict=True))


class Tally(nn.Module):
    """Counts its calls in a buffer and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes.append(1)
        return x


def trained() -> nn.Sequential:
    """A net with gradients, a frozen layer, a counter and one BatchNorm of its own mode."""
    model = convnet().append(Tally()).train()
    model[4].eval()
    model[0].weight.requires_grad_(False)
    model(images(8, (2, 8, 8), dtype=torch.float32)).sum().backward()
    return model
