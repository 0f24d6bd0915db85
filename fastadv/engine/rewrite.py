"""Rewrites: what a search copy computes in another way than the model as given.

A pass is seen through a `Lens`: the user's own Python runs, and functions of torch in it are replaced.

BatchNorm is folded into the layer before it: one pass fewer over the activations. One pass of a copy is
watched. Where a BatchNorm in eval mode alone reads what a convolution or linear layer returns, as the graph
of the pass tells, that layer of the copy gets the weights of both, and the BatchNorm returns what comes. What
no graph shows, a comparison of the copy with the model does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastadv._torch import BatchNorm, is_transformed, nodes_of, without_modes
from fastadv.engine.module import device_of
from fastadv.engine.stamp import ORDINARY, is_hooked

Run = Callable[..., Any]
# Functions of torch, each with another way, which returns NotImplemented where it does not suit or gain
Ways = Mapping[Any, Run]


@dataclass(frozen=True, eq=False)
class Rewrite:
    """One thing that a search copy may compute in another way."""

    name: str
    applies: Callable[[nn.Module, torch.dtype | None], bool]  # to a model that is to compute in a dtype
    ways: Callable[[torch.dtype | None], Ways] = lambda dtype: {}  # of a copy in a dtype
    note: str = ""  # what `Frozen.notes` say once one of the ways was used


class Lens(TorchFunctionMode):
    """Replaces functions of torch, as rewrites say, in what the thread that enters it calls."""

    def __init__(
        self, rewrites: Iterable[Rewrite], dtype: torch.dtype | None, notes: dict[str, None]
    ) -> None:
        """Compute in `dtype`; `notes` get those of what was used."""
        super().__init__()
        self._notes = notes
        # ways with their notes, in the order in which they are tried
        self._ways: dict[Any, list[tuple[str, Run]]] = {}
        for rewrite in rewrites:
            for function, way in rewrite.ways(dtype).items():
                self._ways.setdefault(function, []).append((rewrite.note, way))

    def __bool__(self) -> bool:
        return bool(self._ways)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # a transform of torch.func knows no rule for what replaces a function
        if func in self._ways and ORDINARY.issuperset(types) and not is_transformed():
            for note, way in self._ways[func]:
                result = way(*args, **kwargs)
                if result is not NotImplemented:
                    self._notes[note] = None
                    return result
        return func(*args, **kwargs)


def unseen(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a backward whose calls no `Lens` sees, but for those that restore checkpointed tensors."""

    @wraps(backward)
    def run(ctx: Any, *gradients: Tensor) -> Any:
        saved = ctx.saved_tensors
        with without_modes():
            return backward(ctx, saved, *gradients)

    return run


def follows(x: Tensor) -> bool:
    """Return whether a gradient of it is recorded."""
    return torch.is_grad_enabled() and x.requires_grad


def on_cpu(model: nn.Module) -> bool:
    device = device_of(model)
    return device is None or device.type == "cpu"


def convolutions(model: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]


def has_conv2d(model: nn.Module) -> bool:
    return bool(convolutions(model))


LAYERS = {kind.forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)}
NORMS = {kind.forward for kind in (nn.BatchNorm2d, nn.SyncBatchNorm)}
# bytes of a kernel of 1 by 1, and how many rows of its result take as much, from which it is not folded: the
# copy of a ResNet-50 takes 28 MiB less, and no longer
LARGE, MANY = 1 << 20, 8


class Pair:
    """A layer of a copy and the BatchNorm that alone reads it, as one layer."""

    def __init__(self, layer: Any, norm: nn.Module, models: tuple[Any, Any]) -> None:
        """Fold; `models`: the two in the model, whose weights may be more precise than those of the copy."""
        self._layer, self._models = layer, models
        weight, bias = self._folded()
        both = torch.empty_like(layer.weight).copy_(weight), bias.to(layer.weight.dtype)
        layer.weight, layer.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in both)
        vars(norm)["forward"] = _same

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of both as one, in float64."""
        layer, norm = self._models
        factor, weight = (norm.running_var.double() + norm.eps).rsqrt(), layer.weight.double()
        bias = -norm.running_mean.double() if layer.bias is None else layer.bias - norm.running_mean.double()
        if norm.weight is not None:
            factor = factor * norm.weight
        shift = 0 if norm.bias is None else norm.bias
        return weight * factor.view(-1, *[1] * (weight.ndim - 1)), bias * factor + shift

    def refresh(self) -> None:
        for weight, folded in zip((self._layer.weight, self._layer.bias), self._folded(), strict=True):
            weight.copy_(folded)


def _same(input: Tensor) -> Tensor:
    return input


def fold(copied: nn.Module, model: nn.Module, run: Callable[[], Tensor]) -> list[Pair]:
    """Fold what can be folded in a copy of a model; `run` passes a few rows that follow a gradient."""
    names = {part: name for name, part in copied.named_modules()}
    return [
        Pair(layer, norm, (model.get_submodule(names[layer]), model.get_submodule(names[norm])))
        for layer, norm in _pairs(copied, run)
    ]


def _pairs(copied: nn.Module, run: Callable[[], Tensor]) -> list[tuple[nn.Module, nn.Module]]:
    """Return layers whose results a BatchNorm alone reads, and that, where both are called once in a pass."""
    calls = Counter[nn.Module]()
    # Nodes that a layer returns and a norm reads lead to these; and to what the norm returns
    layers, norms = dict[Any, nn.Module](), dict[Any, tuple[nn.Module, Any]]()

    def of_layer(part: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
        calls[part] += 1
        if args and _gains(part, args[0], result):
            layers[result.grad_fn] = part

    def of_norm(part: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
        calls[part] += 1
        if args:
            norms[args[0].grad_fn] = part, result.grad_fn

    parts = list(copied.modules())
    hooks = [part.register_forward_hook(of_layer) for part in parts if _is_plain(part, LAYERS)]
    hooks += [part.register_forward_hook(of_norm) for part in parts if _is_plain(part, NORMS)]
    try:
        readers = _readers(run().grad_fn)
    finally:
        for hook in hooks:
            hook.remove()
    followed = ((node, layer, *norms[node]) for node, layer in layers.items() if node in norms)
    return [
        (layer, norm)
        for node, layer, norm, normed in followed
        if readers[node] == calls[layer] == calls[norm] == 1 and readers[normed]
    ]


def _gains(layer: nn.Module, x: Tensor, result: Tensor) -> bool:
    """Return whether a layer reads [B, C, ...], which BatchNorm does, too, and is worth memory of its own."""
    weight: Any = layer.weight
    if x.ndim != weight.ndim:
        return False
    of_one = weight.ndim > 2 and weight[0].numel() == weight.shape[1]
    return not of_one or weight.nbytes <= max(LARGE, MANY * result.nbytes // max(len(result), 1))


def _readers(last: Any) -> "Counter[Any]":
    """Return how often each result in the graph that ends with `last` is read."""
    readers = Counter([last])
    for node in nodes_of(last):
        readers.update(before for before, _ in node.next_functions)
    return readers


def _is_plain(part: nn.Module, forwards: set[Any]) -> bool:
    """Return whether calls of a part are those of a forward of torch alone, with parameters of its own."""
    held, convolve = vars(part), getattr(type(part), "_conv_forward", part.forward)
    hooked = "forward" in held or is_hooked(part)
    of_torch = type(part).forward in forwards and convolve.__module__.startswith("torch.")
    return not hooked and of_torch and {"weight", "bias"} <= held["_parameters"].keys()


def has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, BatchNorm) for part in module.modules())
