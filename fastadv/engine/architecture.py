"""What the cost of passing a model depends on, beside its batch."""

import hashlib
from typing import Any

from torch import fx, nn


def architecture(model: nn.Module) -> tuple[Any, ...]:
    """Return what the sizes of activations depend on: types, settings and shapes of all parts."""
    return tuple(
        (_kind(part), part.extra_repr(), *(tensor.shape for tensor in part.parameters(recurse=False)))
        for part in model.modules()
    )


def digest(model: nn.Module) -> str:
    """Return a name of its architecture and precision that holds in other processes."""
    names = [type(part).__qualname__ for part in model.modules()]
    sizes = [told[1:] for told in architecture(model)]
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    return hashlib.sha256(repr((names, sizes, dtypes)).encode()).hexdigest()[:12]


def _kind(part: nn.Module) -> object:
    """Its type, or its code where it was traced: each trace has a type of its own."""
    return part.code if isinstance(part, fx.GraphModule) else type(part)
