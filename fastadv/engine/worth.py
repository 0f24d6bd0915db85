"""Whether work is worth compiling for.

Operations are counted, not timed, so that all processes of a run and a resumed run decide alike.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from fastadv._torch import DispatchMode
from fastadv.engine.prepared import Prepared
from fastadv.errors import NoGradientError
from fastadv.rng import generators_kept

# operations of an H100 in a minute of float32 gradients of a ResNet-18, at 75e12 a second; compiling that
# takes 12 seconds there, and saves more than a quarter of what follows
MINUTE = 4.5e15


class _Operations(DispatchMode):
    """Count the operations of products and convolutions inside; torch's own counter hangs hooks on layers."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # takes long where Triton is installed

        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self._kinds = 0, flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (operations := self._kinds.get(func.overloadpacket)) is not None:
            self.count += operations(*args, **(kwargs or {}), out_val=out)
        return out


def operations(model: Prepared, row: Tensor) -> int:
    """Count the operations of a gradient at row [1, ...]; a product and its sum are two."""
    with generators_kept(row.device), _Operations() as seen, suppress(NoGradientError):
        model.input_gradient(row, torch.zeros(1, dtype=torch.int64, device=row.device))
    return int(seen.count)


def worth_compiling(model: Prepared, row: Tensor, gradients: int) -> bool:
    """Return whether so many gradients of samples like row [1, ...] take a minute of a GPU."""
    return gradients * operations(model, row) >= MINUTE
