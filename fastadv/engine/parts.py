"""How many rows pass a convolutional network at once on a CPU.

An allocator hands large activations back to the system after each pass, and every page of them faults in the
next; small ones stay, and stay in the cache. Measured on one core (fp32, ms of processor time for
loss and input gradient, whole and in parts): a small CNN of width 32 with 256 images 156 and 103, the CNN of
Schott et al. with 500 images 228 and 172, a ResNet-18 with 64 images 840 and 770.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._torch import BatchNorm, DispatchMode
from fastadv.engine.cpu.winograd import is_wide
from fastadv.engine.rewrite import convolutions

# what the largest activation of a part may take; twice as much where products of Winograd's method in float32
# gain by it (a ResNet-18 with 64 images, ms: 373 in two parts, 356 whole; by the library alone 472 and 590)
BYTES = 8 << 20
LEAST = 8  # rows for each thread to work on
# rows that are passed to measure, and one fewer: what does not grow with them, such as a cast of weights to
# bfloat16, is no activation
PROBE = 3
# ops whose results are no activations, since they divide their work themselves
WITHIN = ("fastadv::winograd_tiles", "mkldnn::_convolution_pointwise")


class _Sizes(DispatchMode):
    """The bytes of every tensor made while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: list[int] = []
        self._within: dict[int, Tensor] = {}  # held, so that no other tensor gets their memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.layout == torch.strided:
            place = out.untyped_storage().data_ptr()
            if func.name() in WITHIN:
                self._within[place] = out
            elif place not in self._within:
                self.bytes.append(out.nbytes)
        return out


class Parts:
    """How many rows pass one search copy at once, if it convolves; a row of each kind is measured once."""

    def __init__(self, model: object, winograd: bool) -> None:
        """Plan for a model: `winograd` says whether its convolutions may go by that method."""
        layers = convolutions(model) if isinstance(model, nn.Module) else []
        kernels = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
        self._splits = bool(layers)
        wide = winograd and any(kernel.dtype == torch.float32 and is_wide(kernel) for kernel in kernels)
        self._factor = 2 if wide else 1
        self._bytes_a_row: dict[tuple[Any, ...], int] = {}

    def measure(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """Find by how much the tensor that grows most does so with a row like x [B, ...]."""
        key, made = (x.dtype, x.shape[1:]), []
        if key in self._bytes_a_row or not (self._splits and x.is_cpu):
            return
        few = x[:1].expand(PROBE, *x.shape[1:]).contiguous()
        with torch.no_grad():
            run(few)  # for what is made once, such as transformed weights
            for rows in (few, few[:-1]):
                with _Sizes() as sizes:
                    run(rows)
                made.append(sizes.bytes)
        growth = [more - less for more, less in zip(*made, strict=False)]
        self._bytes_a_row[key] = max(growth, default=0)

    def full(self, x: Tensor) -> int:
        """Return how many rows like x [B, ...] to pass at once; 0 where they were not measured."""
        row = self._bytes_a_row.get((x.dtype, x.shape[1:]), 0)
        return max(self._factor * BYTES // row, LEAST * torch.get_num_threads()) if row else 0


def mixes_rows(model: nn.Module) -> bool:
    """Return whether a BatchNorm takes its statistics from the batch."""
    norms = [part for part in model.modules() if isinstance(part, BatchNorm)]
    return any(norm.training or norm.running_mean is None for norm in norms)
