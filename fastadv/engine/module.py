"""A model as a module: without wrappers, where its weights lie, and which parts have another gradient."""

from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from fastadv._torch import COMPILED_FUNCTION, COMPILED_MODULE, BatchNorm, compiled_call, holds_compiled

# InstanceNorm has the kernel of BatchNorm
NORMS = BatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d


class Traits(NamedTuple):
    """What the classes of a model's parts say of it."""

    lazy: bool  # it has parameters that its first pass makes
    recurrent: bool  # cuDNN does not differentiate such layers in eval mode
    may_normalize: bool  # a part is a normalization, or may call one that is no part


@lru_cache
def traits(kinds: frozenset[type]) -> Traits:
    """Return the traits of a model with parts of these classes; of a function, which has none."""

    def has(kind: type | tuple[type, ...]) -> bool:
        return any(issubclass(one, kind) for one in kinds)

    torchs = all(kind.__module__.startswith("torch.nn.modules.") for kind in kinds)
    return Traits(has(LazyModuleMixin), has(nn.RNNBase), has(NORMS) or not kinds or not torchs)


class Method(nn.Module):
    """A bound method of a module, or a partial of a module or of such a method, as a module."""

    def __init__(self, module: nn.Module, call: Any) -> None:
        super().__init__()
        self.module, self.call = module, call
        self.training = module.training

    def forward(self, x: Tensor, **more: Tensor) -> Any:
        return self.call(x, **more)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(model, COMPILED_MODULE) if holds_compiled(model) else None
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_compiled(part: nn.Module) -> bool:
    """Return whether torch.compile made the module, its call or its forward."""
    by_forward = hasattr(vars(part).get("forward"), COMPILED_FUNCTION)
    return by_forward or holds_compiled(part) or compiled_call(part) is not None


def as_module(model: object) -> nn.Module | None:
    """Return `model` as a module without wrappers; None for a function, of which nothing is known."""
    if isinstance(model, nn.Module):
        return unwrap(model)
    owner = model
    while isinstance(owner, partial):
        owner = owner.func
    owner = getattr(owner, "__self__", owner)
    if not isinstance(owner, nn.Module):
        return None
    return Method(owner, model)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Return the floating dtype of the parameters; None where there is not exactly one."""
    return one_dtype(model.parameters())


def one_dtype(tensors: Iterable[Tensor]) -> torch.dtype | None:
    dtypes = {dtype for dtype in {tensor.dtype for tensor in tensors} if dtype.is_floating_point}
    return dtypes.pop() if len(dtypes) == 1 else None


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of the first parameter or buffer; None for a module without either."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), None)


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
