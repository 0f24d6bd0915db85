"""Call ops from Python, without torch's dispatcher where it would only cost time.

The dispatcher takes 2 to 12 µs a call, as long as a kernel on a small batch.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

_torch: Any = torch._C  # these calls carry no types


def _usual() -> tuple[int, int]:
    """Return the dispatch keys of a dense CPU tensor and of a thread without transforms or modes."""
    dense = _torch._dispatch_keys(torch.empty(0, device="cpu"))
    return dense.raw_repr(), _torch._dispatch_tls_local_include_set().raw_repr()


with ThreadPoolExecutor(1) as fresh:  # a mode may be active while this library is imported
    _DENSE, _UNWATCHED = fresh.submit(_usual).result()
_OTHERS = frozenset({bool, int, float, str, type(None)})


def entry(op: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable for `op` that runs `kernel` directly where the dispatcher would only do that.

    Arguments are given by position, in the types that the schema names.
    """

    def call(*args: Any) -> Any:
        return kernel(*args) if not _watched() and _plain(args) else op(*args)

    return call


def _watched() -> bool:
    """Whether calls in this thread go through a transform, a mode, a trace, a compiler or a profiler."""
    return bool(
        torch.compiler.is_compiling()
        or _torch._dispatch_tls_local_include_set().raw_repr() != _UNWATCHED
        or _torch._is_torch_function_mode_enabled()
        or _torch._autograd._profiler_enabled()
    )


def _plain(args: Iterable[Any]) -> bool:
    """Whether all tensors among them are dense ones on the CPU, without a graph and no lazy views."""
    follows = torch.is_grad_enabled()
    for value in args:
        kind = type(value)
        if kind is Tensor or kind is nn.Parameter:
            if (follows and value.requires_grad) or _torch._dispatch_keys(value).raw_repr() != _DENSE:
                return False
        elif not (kind in _OTHERS or (kind is list and _plain(value))):
            return False
    return True
