"""A model that remembers where its gradient was asked for."""

from collections.abc import Callable

from torch import Tensor, nn


def watched(model: nn.Module) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """The model as a function, and the list of the batches whose gradient was asked for."""
    batches: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        if x.requires_grad:
            batches.append(x.detach().clone())
        logits: Tensor = model(x)
        return logits

    return function, batches
