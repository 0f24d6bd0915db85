"""A model whose calls torch.compile runs, and which stays itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._torch import compiled_call, compiler_error, own_call, set_compiled_call, without_donated_buffers
from fastadv.engine.copying.twin import unwrap
from fastadv.errors import InputError


class Compiled:
    """The calls of a model, compiled when they first run; inside `in_use`, `model` uses them.

    Keys, hooks, class and pickle stay the same, as with torch's `nn.Module.compile`. Random draws, such as
    those of dropout, are those without the compiler.
    """

    def __init__(self, model: nn.Module) -> None:
        # torch.compile skips torch's own functions, such as nn.Sequential's forward, but follows this one
        def call(*args: Any, **kwargs: Any) -> Any:
            return own_call(model, *args, **kwargs)

        self.model, self.call = model, torch.compile(call, options={"fallback_random": True})

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Run the calls of the model compiled, inside; recipes attack a compiled twin.

        Raises InputError where torch.compile fails.
        """
        # a recipe may go back twice through the same pass
        with without_donated_buffers():
            set_compiled_call(self.model, self.call)
            try:
                yield
            except compiler_error() as error:
                raise InputError(
                    f"compile: expected a model that torch.compile takes, got {_reason(error)}; leave it out"
                ) from error
            finally:
                set_compiled_call(self.model, None)


def check_compile(model: nn.Module, device: torch.device) -> None:
    """Raise InputError where torch.compile cannot be called, or would do nothing."""
    if unwrap(model) is not model or compiled_call(model) is not None:
        raise InputError(
            f"compile: expected a module that is not compiled or wrapped, got a {type(model).__name__} that "
            "is; pass the module inside, or leave it out"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("compile: expected a module in Python, got a scripted one; leave it out")
    _try(device.type)


@cache
def _try(device: str) -> None:
    """Raise InputError unless a small function can be compiled for this kind of device."""
    try:
        done = bool(torch.compile(_compiled_or_not)(torch.zeros(2, device=device)).all())
    except Exception as error:  # of torch.compile or of a compiler
        raise InputError(
            f"compile: expected a compiler that torch.compile can call for {device}, got none that works "
            f"({_reason(error)}); install one, such as g++, or leave it out"
        ) from error
    if not done:
        raise InputError(
            "compile: expected torch.compile to be switched on, got it off; unset TORCH_COMPILE_DISABLE, or "
            "leave it out"
        )


def _compiled_or_not(x: Tensor) -> Tensor:
    return x + 1 if torch.compiler.is_compiling() else x


def _reason(error: Exception) -> str:
    """Return what the error says, without torch's advice on how to learn more."""
    lines = str(error).partition("\nSet TORCHDYNAMO")[0].split("\n")
    return f"{type(error).__name__}: {' '.join(lines[:2]).strip()}"
