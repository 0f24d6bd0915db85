"""Which modules of a model have the gradient of something else, as `fastadv.models.bpda` gives them."""

from collections.abc import Mapping
from typing import Any

from torch import nn


def is_replaced(module: nn.Module) -> bool:
    """Return whether its gradient is that of something else."""
    return "bpda_given" in vars(module)


def replaced(model: object) -> dict[str, str]:
    """Return the modules of `model` that have another gradient, by name, each with what that is of."""
    parts = model.named_modules() if isinstance(model, nn.Module) else ()
    return {name: label(part.bpda) for name, part in parts if is_replaced(part)}


def in_words(names: Mapping[str, str]) -> str:
    """Return what `replaced` has found: "BPDA: quantize (identity), purify (UNet)", or nothing."""
    return "" if not names else "BPDA: " + ", ".join(f"{name} ({of})" for name, of in names.items())


def label(gradient: Any) -> str:
    if isinstance(gradient, str):
        return gradient
    return str(getattr(gradient, "__name__", type(gradient).__name__))
