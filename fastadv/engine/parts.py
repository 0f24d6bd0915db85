"""How many rows pass a convolutional network at once on a CPU.

An allocator hands large activations back to the system after each pass, and every page of them faults in the
next; small ones stay, and stay in the cache. Measured on one core (fp32, ms of processor time for
loss and input gradient, whole and in parts): a small CNN of width 32 with 256 images 156 and 103, the CNN of
Schott et al. with 500 images 228 and 172, a ResNet-18 with 64 images 840 and 770.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._torch import BatchNorm, DispatchMode
from fastadv.engine.cpu.winograd import is_wide
from fastadv.engine.rewrite import has_conv2d

# what the largest activation of a part may take; twice as much where products of Winograd's method in float32
# gain by it (a ResNet-18 with 64 images, ms: 373 in two parts, 356 whole; by the library alone 472 and 590)
BYTES = 8 << 20
LEAST = 8  # rows for each thread to work on
WIDEST = 64  # an activation is assumed to be at most so many times the input
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
        self._within: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not isinstance(out, Tensor):
            return out
        if func.name() in WITHIN:
            self._within.append(out)
        elif not any(_same_memory(out, each) for each in self._within):
            self.bytes.append(out.numel() * out.element_size())
        return out


def _same_memory(one: Tensor, other: Tensor) -> bool:
    strided = one.layout == other.layout == torch.strided
    return strided and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _bytes_of_a_row(run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """By how much the tensor that grows most does so with the last row of x."""
    with torch.no_grad():
        run(x)  # for what is made once, such as transformed weights
    made = []
    for rows in (x, x[:-1]):
        with torch.no_grad(), _Sizes() as sizes:
            run(rows)
        made.append(sizes.bytes)
    return max((more - less for more, less in zip(*made, strict=False)), default=0)


class Parts:
    """How many rows pass one search copy at once; a row of each shape and dtype is measured once."""

    def __init__(self, search: nn.Module, winograd: bool) -> None:
        """Plan for a model: `winograd` says whether its convolutions may go by that method."""
        self._search, self._winograd = search, winograd
        self.usual: dict[tuple[Any, ...], int] = {}  # what `at_once` has found
        self._bytes_a_row: dict[tuple[Any, ...], int] = {}

    def worth_splitting(self, x: Tensor) -> bool:
        """Return whether x [B, ...] may gain from passing in parts."""
        many = len(x) > self.least and x.numel() * x.element_size() * WIDEST > BYTES
        return many and x.device.type == "cpu" and self.may_split

    def at_once(self, run: Callable[[Tensor], Tensor], x: Tensor) -> int:
        """Return how many rows like x [3, ...] to pass at once, which `run` passes to find out."""
        key = (x.dtype, *x.shape[1:])
        if key not in self._bytes_a_row:
            self._bytes_a_row[key] = max(_bytes_of_a_row(run, x), 1)
        return max(self._most // self._bytes_a_row[key], self.least)

    @property
    def least(self) -> int:
        return LEAST * torch.get_num_threads()

    @cached_property
    def may_split(self) -> bool:
        """Return whether it is made of convolutions, each row by itself."""
        return has_conv2d(self._search) and not mixes_rows(self._search)

    @cached_property
    def _most(self) -> int:
        wide = any(
            isinstance(part, nn.Conv2d) and part.weight.dtype == torch.float32 and is_wide(part.weight)
            for part in self._search.modules()
        )
        return 2 * BYTES if self._winograd and wide else BYTES


def mixes_rows(model: nn.Module) -> bool:
    """Return whether a BatchNorm takes its statistics from the batch."""
    norms = [part for part in model.modules() if isinstance(part, BatchNorm)]
    return any(norm.training or norm.running_mean is None for norm in norms)
