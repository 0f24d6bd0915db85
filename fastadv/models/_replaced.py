"""Modules with the gradient of something else (BPDA): their value stays their own, to the last bit."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._torch import version
from fastadv.engine.module import is_replaced, label
from fastadv.errors import InputError, NoGradientError

IDENTITY = "identity"
# of what a module is called with; IDENTITY for the first tensor of that
Gradient = Callable[..., Tensor] | str


class _Value(torch.autograd.Function):
    """The value of one tensor in the graph of another: `graph + (value - graph).detach()`, not rounded."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, graph: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, gradients[0]


def replace_gradient(module: nn.Module, gradient: Gradient, name: str) -> None:
    """Let calls of `module`, called `name`, have the gradient of `gradient`, without one of their own."""
    part: Any = module
    if not is_replaced(part):
        part.bpda_given, part.forward = part.forward, _Replaced(part).forward
    else:
        del part.bpda  # torch lets nothing but a module follow a module
    part.bpda, part.bpda_name = gradient, name


class _Replaced:
    """The forward of a module with another gradient: an object of its own, so that pickle finds it again."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Replaced":
        return _Replaced(copy.deepcopy(self.module, memo))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _forward(self.module, *args, **kwargs)


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    if not torch.is_grad_enabled() or not any(each.requires_grad for each in tensors):
        value = self.bpda_given(*args, **kwargs)
        _check_value(self, value, tensors)
        return value
    # a copy of the first, which it must not write into: the other gradient is taken there
    own: dict[int, Tensor] = {id(each): each.detach() for each in tensors}
    first = own[id(tensors[0])] = tensors[0].detach().clone()
    before = version(first)
    with torch.no_grad():
        value = self.bpda_given(
            *(own.get(id(each), each) for each in args),
            **{key: own.get(id(each), each) for key, each in kwargs.items()},
        )
    graph = _check_value(self, value, tensors)
    if version(first) != before:
        raise InputError(
            f"bpda: expected {self.bpda_name!r} to leave its input as it is, got a module that writes into "
            "it; let its forward begin with x = x.clone()"
        )
    if not isinstance(self.bpda, str):
        graph = self.bpda(*args, **kwargs)
        _check_graph(self, value, graph)
    return _Value.apply(value, graph)  # type: ignore[no-untyped-call]


def _check_value(self: Any, value: Any, tensors: list[Tensor]) -> Tensor:
    """Return the first tensor that the module was given; InputError for one that cannot be replaced."""
    if not tensors:
        raise InputError(
            f"bpda: expected {self.bpda_name!r} to be called with a tensor, got none; match a module that is"
        )
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"bpda: expected {self.bpda_name!r} to return one floating-point tensor, got {got}; match a "
            "module around or inside it that does"
        )
    if isinstance(self.bpda, str):
        x = tensors[0]
        if x.shape != value.shape or not _same_format(x, value):
            raise InputError(
                f"bpda: expected {self.bpda_name!r} to return what has the form of its input for "
                f"'{IDENTITY}', got {_form(value)} for {_form(x)}; give a function or a network that "
                "returns the former"
            )
    return tensors[0]


def _check_graph(self: Any, value: Tensor, graph: Any) -> None:
    of = f"{label(self.bpda)} for {self.bpda_name!r}"
    if not isinstance(graph, Tensor) or graph.shape != value.shape or not _same_format(graph, value):
        got = _form(graph) if isinstance(graph, Tensor) else type(graph).__name__
        raise InputError(
            f"bpda: expected {of} to return {_form(value)} as the module does, got {got}; give one that does"
        )
    if not graph.requires_grad:
        raise NoGradientError(
            f"bpda: expected {of} to depend on its input differentiably, got one that cuts the graph; "
            "compute it in differentiable functions of torch"
        )


def _same_format(one: Tensor, other: Tensor) -> bool:
    """Return whether dtypes are equal, or autocast has chosen them."""
    return one.dtype == other.dtype or torch.is_autocast_enabled(one.device.type)


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"
