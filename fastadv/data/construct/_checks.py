"""Checks on the source model, the base and the search, made before any work is done."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv.data.construct._base import Base
from fastadv.engine import Frozen, freeze, representation
from fastadv.engine.frozen import Model
from fastadv.engine.twin import device_of
from fastadv.errors import InputError
from fastadv.threat import Threat

Module = str | Callable[[Tensor], Tensor] | None


def check_steps(steps: int, step_size: float) -> None:
    """Raise InputError unless there is at least one step, of a finite positive size."""
    if steps < 1:
        raise InputError(f"steps: expected at least 1, got {steps}")
    if not (math.isfinite(step_size) and step_size > 0):
        raise InputError(f"step_size: expected a positive finite number, got {step_size}")


def prepare(
    model: nn.Module | Frozen, dataset: Dataset[Any], threat: Threat, *, every_class: bool
) -> tuple[Frozen, Base, int]:
    """The source model frozen, the base beside it, and the number of classes; InputError where the two do not fit."""
    frozen = freeze(model)
    device = device_of(frozen.model) if isinstance(frozen.model, nn.Module) else None
    base = Base(dataset, device or torch.device("cpu"))
    if tuple(threat.box) != (0.0, 1.0):
        raise InputError(
            f"threat: expected the box (0.0, 1.0), in which data sets serve their images, got {tuple(threat.box)}"
        )
    x, _ = base.fetch(torch.tensor([0]))
    logits = frozen.verdict(x)
    if not logits.isfinite().all():
        raise InputError(
            "model: expected finite logits for the first image of the base, got others; check its weights"
        )
    base.check_labels(logits.shape[1], every_class=every_class)
    return frozen, base, logits.shape[1]


def check_features(model: Model, module: Module, base: Base) -> nn.Module:
    """The representation of `model`; InputError where `module` does not give one of finite floats [B, F]."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: expected a torch.nn.Module, whose representation can be read, got {type(model).__name__}"
        )
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(module, str) and module not in names:
        raise InputError(f"module: expected one of {', '.join(names)}, got {module!r}")
    found = representation(model, module)
    x, _ = base.fetch(torch.tensor([0, base.count - 1]))
    with torch.no_grad():
        features = found(x)
    if (
        not isinstance(features, Tensor)
        or features.ndim != 2
        or len(features) != 2
        or not features.is_floating_point()
    ):
        got = (
            f"{features.dtype} {list(features.shape)}"
            if isinstance(features, Tensor)
            else type(features).__name__
        )
        raise InputError(
            f"module: expected a representation of shape [B, F] of floats for B = 2 images, got {got}; give another module or function"
        )
    if not features.isfinite().all():
        raise InputError(
            "module: expected a finite representation of the first and last image of the base, got other values; check the weights"
        )
    return found
