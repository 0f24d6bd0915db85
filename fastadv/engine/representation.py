"""The features a classifier computes on its way to the logits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastadv.engine.fold import Unfoldable, trace
from fastadv.engine.twin import twin, unwrap
from fastadv.errors import InputError


def representation(
    model: nn.Module, module: str | nn.Module | Callable[[Tensor], Tensor] | None = None
) -> nn.Module:
    """A module in eval mode that maps x [B, ...] to features [B, F], sharing the model's parameters.

    Args:
        model: the classifier; left as it is.
        module: what the features are. None: the input of the last nn.Linear that runs (the representation of
            Ilyas et al. 2019, section 3.1). A name or a submodule: its output. A function: its value at x.

    The result can be frozen like any model. What the model computes after the features is left out where it
    can be traced.

    Raises InputError where there is no such module, no nn.Linear, or it does not run.
    """
    model = unwrap(model)
    name: str | None = None
    if isinstance(module, nn.Module):
        name = next((name for name, part in model.named_modules() if part is module), None)
        if name is None:
            raise InputError(
                "representation: expected a submodule of the model, got another; see model.named_modules()"
            )
    elif isinstance(module, str):
        name = module
        if name not in dict(model.named_modules()):
            raise InputError(
                f"representation: expected the name of a submodule, got {name!r}; see model.named_modules()"
            )
    elif module is not None:
        return _Function(module)
    elif not any(isinstance(part, nn.Linear) for part in model.modules()):
        raise InputError(
            "representation: expected a model with an nn.Linear, got none; name a module whose output to use"
        )
    shared = twin(model)
    return (_cut(shared, name) or _Watched(shared, name)).eval()


def _cut(model: nn.Module, name: str | None) -> nn.Module | None:
    """The traced model, cut off at the features; None where it cannot be traced or calls no such module."""
    try:
        traced = fx.GraphModule(model, trace(model))
    except Unfoldable:
        return None
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    if name is None:
        linear = [node for node in calls if isinstance(traced.get_submodule(str(node.target)), nn.Linear)]
        end = linear[-1].args[0] if linear and linear[-1].args else None
    else:
        end = next((node for node in reversed(calls) if node.target == name), None)
    if not isinstance(end, fx.Node):
        return None
    graph = traced.graph
    for node in graph.nodes:
        if node.op == "output":
            with graph.inserting_before(node):
                node.args = (graph.call_function(torch.flatten, (end, 1)),)
    graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Function(nn.Module):
    """Features given by a function of x; a module given as one is not registered, and stays the caller's."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x).flatten(1)


class _Watched(nn.Module):
    """The whole model is run, and the features are read as they pass."""

    def __init__(self, model: nn.Module, name: str | None) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def before(part: nn.Module, given: tuple[Any, ...]) -> None:
            seen.append(given[0])

        def after(part: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
            seen.append(made)

        if self.name is None:
            handles = [
                p.register_forward_pre_hook(before) for p in self.model.modules() if isinstance(p, nn.Linear)
            ]
        else:
            handles = [self.model.get_submodule(self.name).register_forward_hook(after)]
        try:
            self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        if not seen:
            raise InputError(
                f"representation: expected {self.name or 'an nn.Linear'} to run in forward, it did not; "
                "name another module"
            )
        return seen[-1].flatten(1)
