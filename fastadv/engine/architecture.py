"""What the cost of passing a model depends on, beside its batch."""

from typing import Any

from torch import fx, nn


def architecture(model: nn.Module) -> tuple[Any, ...]:
    """Return what the sizes of activations depend on: types, settings and shapes of all parts."""
    return tuple(
        (_kind(part), part.extra_repr(), *(tensor.shape for tensor in part.parameters(recurse=False)))
        for part in model.modules()
    )


def _kind(part: nn.Module) -> object:
    """Its type, or its code where it was traced: each trace has a type of its own."""
    return part.code if isinstance(part, fx.GraphModule) else type(part)
