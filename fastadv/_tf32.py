"""TF32, in which a GPU may multiply float32, and cuDNN: switches of torch for the process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from fastadv._torch import multiplies_in_tf32, switches_each


def _shared(switch: Callable[[], AbstractContextManager[None]]) -> Callable[[], AbstractContextManager[None]]:
    """Return the same for several threads, the last of which to leave switches back."""
    lock, within, switched = threading.Lock(), list[object](), ExitStack()

    @contextmanager
    def shared() -> Iterator[None]:
        this = object()
        with lock:
            if not within:
                switched.enter_context(switch())
            within.append(this)
        try:
            yield
        finally:
            with lock:
                within.remove(this)
                if not within:
                    switched.close()

    return shared


def has_tf32(device: torch.device) -> bool:
    """Return whether the device multiplies float32 in TF32 where it may."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return multiplies_in_tf32()


def switches() -> list[tuple[Any, str, Any]]:
    """Return (object, attribute, value for on) of what switches TF32; since torch 2.9 for each kind."""
    backends: Any = torch.backends
    cuda, cudnn = backends.cuda.matmul, backends.cudnn
    if switches_each:
        return [(backend, "fp32_precision", "tf32") for backend in (cuda, cudnn.conv, cudnn.rnn)]
    return [(backend, "allow_tf32", True) for backend in (cuda, cudnn)]


def rounds_as(format: torch.dtype | str | None, device: torch.device) -> torch.dtype | str | None:
    """Return "tf32" for float32, or for None, of several formats, on a GPU that may take products in it."""
    single = format in (torch.float32, None) and device.type == "cuda"
    return (
        "tf32" if single and any(getattr(backend, name) == on for backend, name, on in switches()) else format
    )


@contextmanager
def _switch() -> Iterator[None]:
    """Switch inside, as well as an older switch of torch, which may not disagree."""
    backends: Any = torch.backends
    turned = [(backend, name, on) for backend, name, on in switches() if getattr(backend, name) != on]
    kept = [(backend, name) for backend, name, _ in turned]
    if switches_each:
        kept.append((backends.mkldnn.matmul, "fp32_precision"))
    before = [getattr(backend, name) for backend, name in kept]
    older = _older() if turned and turned[0][0] is backends.cuda.matmul else None
    try:
        if older is not None:
            torch.set_float32_matmul_precision("high")
        for backend, name, on in turned:
            setattr(backend, name, on)
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)  # which turns oneDNN's, too
        for (backend, name), value in zip(kept, before, strict=True):
            setattr(backend, name, value)


def _older() -> str | None:
    """Return the older switch; None where it cannot be read, because the caller has set the others alone."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@contextmanager
def _cudnn_off() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    before, cudnn.enabled = cudnn.enabled, False
    try:
        yield
    finally:
        cudnn.enabled = before


switched_on = _shared(_switch)  # lets CUDA multiply float32 in TF32 inside
without_cudnn = _shared(_cudnn_off)
