"""CUDA graphs without a GPU: what a step does is recorded on the CPU and done again on the same memory."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# what reads values, or makes a tensor whose shape depends on them: a GPU would be waited for
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}


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
            place = tensor.untyped_storage().data_ptr()
            if place not in self._fresh and place not in self.before:
                flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())  # type: ignore[call-overload]
                self.before[place] = flat, flat.clone()
        out = func(*args, **kwargs)
        self._fresh |= {tensor.untyped_storage().data_ptr() for tensor in tensors(out)} - self.before.keys()
        self.calls.append((func, args, kwargs, out))
        return out

    def restore(self) -> None:
        for now, then in self.before.values():
            now.copy_(then)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """Stands for `fastadv.ops._graphs.capture`."""
    recording = Recording()
    # as a compiler, and as on a GPU, checks leave the values of tensors alone
    with recording, patch.object(torch.compiler, "is_compiling", lambda: True):
        run()
    recording.restore()
    return recording.replay
