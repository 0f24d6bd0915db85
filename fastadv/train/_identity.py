"""What a run is: a JSON-able description by which a checkpoint knows its own run again, and the seeds drawn from it."""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._card import data_hash


def describe(value: Any) -> Any:
    """`value` as JSON that is the same in every process: no memory address, tensors by their hash, functions by their name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.item() if value.ndim == 0 else data_hash(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, **fields}
    if isinstance(value, functools.partial):
        return {"name": describe(value.func), "args": describe(value.args), **describe(value.keywords)}
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else f"{type(value).__module__}.{type(value).__qualname__}"


def describe_model(model: nn.Module) -> str:
    """Class and a hash over the names, shapes and dtypes of the model's state; not its weights."""
    state = "\n".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in model.state_dict().items())
    return f"{type(model).__qualname__} {hashlib.sha256(state.encode()).hexdigest()[:16]}"


def describe_data(dataset: Any) -> str:
    """Length and hash of the data; of its labels alone, or of none, where the data set gives no more."""
    known = getattr(dataset, "data_hash", None)
    if isinstance(known, str):
        return f"{len(dataset)} {known}"
    held = [getattr(dataset, name, None) for name in ("x", "y", "targets")]
    tensors = [torch.as_tensor(item) for item in held if isinstance(item, Tensor | list | np.ndarray)]
    return f"{len(dataset)} {data_hash(*tensors)}"


def describe_set(dataset: Any) -> Any:
    """What the card of a model says of the images it was trained on."""
    told = getattr(dataset, "describe", None)
    return told() if callable(told) else describe_data(dataset)
