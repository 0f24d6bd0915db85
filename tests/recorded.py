"""CUDA graphs without a GPU: what a step does is recorded on the CPU and done again on the same memory."""

import threading
from collections.abc import Callable
from typing import Any, Self
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from fastadv import _waiting
from fastadv.ops import _graphs
from fastadv.ops.registration import library

# operations that read values, or make a tensor whose shape depends on them: a GPU would be waited for
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}

_one = threading.RLock()  # one capture at a time, as on a GPU


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class Recording(TorchDispatchMode):
    """The calls of a step. Like a capture, it refuses to read values, and leaves what was there as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self._fresh: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        for tensor in tensors((args, kwargs)):
            self._meet(tensor)
        out = func(*args, **kwargs)
        self._fresh |= {tensor.untyped_storage().data_ptr() for tensor in tensors(out)} - self.before.keys()
        self.calls.append((func, args, kwargs, out))
        return out

    def launch(self, kernel: Callable[..., None], *args: Any) -> None:
        """Stands for `registration.library.launch`: the dispatcher sees nothing of a bound kernel."""
        with _disable_current_modes():
            for tensor in tensors(args):
                self._meet(tensor)
            kernel(*args)
        self.calls.append((kernel, args, {}, None))

    def _meet(self, tensor: Tensor) -> None:
        place = tensor.untyped_storage().data_ptr()
        if place not in self._fresh and place not in self.before:
            flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())  # type: ignore[call-overload]
            self.before[place] = flat, flat.clone()

    def restore(self) -> None:
        for now, then in self.before.values():
            now.copy_(then)

    def replay(self) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):  # what was recorded was cast already
            for func, args, kwargs, out in self.calls:
                for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Reads(TorchDispatchMode):
    """Counts what would wait for a GPU: reads, lists, and rows that are chosen by masks."""

    count = 0

    def __enter__(self) -> Self:
        plain = Tensor.tolist

        def tolist(tensor: Tensor) -> Any:
            self.count += 1
            return plain(tensor)

        self._patch = patch.object(Tensor, "tolist", tolist)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(each.dtype == torch.bool for each in tensors(args[1:2]))
        self.count += name in READS or masked
        return func(*args, **(kwargs or {}))


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """Stands for `fastadv.ops._graphs.capture`."""
    recording, thread = Recording(), threading.get_ident()

    def here() -> bool:
        return threading.get_ident() == thread

    with _one:
        elsewhere = library.launch

        def launch(*args: Any) -> None:
            (recording.launch if here() else elsewhere)(*args)

        # checks leave the values of tensors alone, as in a compiler and on a GPU
        checks_nothing = patch.object(torch.compiler, "is_compiling", here)
        try:
            generator = torch.random.fork_rng(devices=[])  # which a capture does not move
            with generator, recording, checks_nothing, patch.object(library, "launch", launch):
                run()
        finally:
            recording.restore()
    return recording.replay


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Wait for no value, as if the CPU were a GPU; return a list that grows with each capture."""
    captured: list[int] = []

    def captures(run: Callable[[], None]) -> Callable[[], None]:
        captured.append(len(captured))
        return capture(run)

    monkeypatch.setattr(_waiting, "AT_ONCE", set())
    monkeypatch.setattr(_graphs, "capture", captures)
    return captured
