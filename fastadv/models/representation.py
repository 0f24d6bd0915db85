"""The features a classifier computes on its way to the logits."""

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fastadv.engine.copying.copier import eval_copy
from fastadv.engine.module import unwrap
from fastadv.errors import InputError


def representation(
    model: nn.Module, module: str | nn.Module | Callable[[Tensor], Tensor] | None = None
) -> nn.Module:
    """Return a module in eval mode that maps x to features, sharing the model's parameters.

    The result can be frozen like any model. It runs the whole model, and takes the features as they pass.

    Args:
        model: the classifier; it is not changed.
        module: where the features are. None: the input of the last nn.Linear that runs. A name or a
            submodule: its output. A function: its value at x.

    Returns:
        A module; x [B, ...] to features [B, F].

    Raises:
        InputError: there is no such module, no nn.Linear, or it does not run.

    Source:
        Ilyas et al. 2019 (arXiv 1905.02175), section 3.1.
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
    shared = eval_copy(model)
    return _Watched(shared, name).eval()


class _Function(nn.Module):
    """Features given by a function of x; a module given as one is not registered, and stays the caller's."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x).flatten(1)


class _Passing(threading.local):
    """What passes in the pass of this thread; None outside one."""

    values: list[Tensor] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Passing, ()


class _Watched(nn.Module):
    """The whole model is run, and the features are read as they pass."""

    def __init__(self, model: nn.Module, name: str | None) -> None:
        super().__init__()
        self.model, self.name, self._passing = model, name, _Passing()
        if name is None:
            for part in model.modules():
                if isinstance(part, nn.Linear):
                    part.register_forward_pre_hook(self._before)
        else:
            model.get_submodule(name).register_forward_hook(self._after)

    def _before(self, part: nn.Module, args: tuple[Any, ...]) -> None:
        if self._passing.values is not None:
            self._passing.values.append(args[0])

    def _after(self, part: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self._passing.values is not None:
            self._passing.values.append(output)

    def forward(self, x: Tensor) -> Tensor:
        self._passing.values = []
        try:
            self.model(x)
            seen = self._passing.values
        finally:
            self._passing.values = None
        if not seen:
            raise InputError(
                f"representation: expected {self.name or 'an nn.Linear'} to run in forward, it did not; "
                "name another module"
            )
        return seen[-1].flatten(1)
