"""Call ops from Python, without torch's dispatcher where it would only cost time.

On a CPU the dispatcher takes 2 to 12 µs a call. Through it PGD with 10 steps took 1.03 times as long on MLPs
for 64 images, 1.07 to 1.09 times for one. FASTADV_DIRECT=0, when fastadv is imported, sends every call
through it.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

from fastadv._torch import compares_keys, dispatch_keys, has_function_mode, included_keys, is_profiled


def _usual() -> tuple[int, int]:
    """Return the dispatch keys of a dense CPU tensor and of a thread without transforms or modes."""
    return dispatch_keys(torch.empty(0, device="cpu")).raw_repr(), included_keys().raw_repr()


if compares_keys:
    with ThreadPoolExecutor(1) as fresh:  # a mode may be active while this library is imported
        _DENSE, _UNWATCHED = fresh.submit(_usual).result()


def entry(
    op: Callable[..., Any],
    kernel: Callable[..., Any],
    usual: Callable[..., bool],
    on_gpu: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Return a callable for `op` that runs a kernel directly where the dispatcher would only do that.

    `usual` is the extension's: it looks at the arguments. `on_gpu` is the kernel for CUDA tensors.
    """
    if os.environ.get("FASTADV_DIRECT") == "0" or not compares_keys:
        return op

    def call(*args: Any) -> Any:
        if _watched():
            return op(*args)
        run, dense = kernel, _DENSE
        if on_gpu is not None and args[0].is_cuda:
            run, dense = on_gpu, _dense_on_gpu()
        return run(*args) if usual(args, torch.is_grad_enabled(), dispatch_keys, dense) else op(*args)

    return call


@cache
def _dense_on_gpu() -> int:
    """Return the dispatch keys of a dense CUDA tensor; not asked before there is one."""
    return int(dispatch_keys(torch.empty(0, device="cuda")).raw_repr())


def _watched() -> bool:
    """Return whether a transform, mode, trace, compiler or profiler sees the calls of this thread."""
    return bool(
        torch.compiler.is_compiling()
        or included_keys().raw_repr() != _UNWATCHED
        or has_function_mode()
        or is_profiled()
    )
