"""How many rows pass a convolutional network at once on a CPU.

An allocator hands large activations back to the system and takes them again at each pass, and every page of
them then faults; small ones stay, and stay in the cache. Measured on one core (fp32, ms of processor time for
loss and input gradient, whole and in parts): a small CNN of width 32 with 256 images 156 and 103, the CNN of
Schott et al. with 500 images 228 and 172, a ResNet-18 with 64 images 840 and 770.
"""

import hashlib
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from fastadv._torch import BatchNorm, DispatchMode
from fastadv.engine.choices import Seconds
from fastadv.engine.chooser import Chooser, is_faster
from fastadv.engine.cpu.winograd import is_wide
from fastadv.engine.form import Form
from fastadv.engine.rewrite import has_conv2d
from fastadv.engine.stopwatch import agreed

# what the largest activation of a part may take; twice as much where products of Winograd's method in float32
# gain by it (a ResNet-18 with 64 images, ms: 373 in two parts, 356 whole; by the library alone 472 and 590)
BYTES = 8 << 20
# each thread has some rows to work on
LEAST = 8
# an activation is taken to be at most so many times the input
WIDEST = 64
# rows that are passed to measure, and one fewer: what does not grow with them, such as a cast of weights to
# bfloat16, is no activation
PROBE = 3
TURNS = 3  # in which parts of other sizes are timed; the first warms up

# ops whose results are no activations: they divide their work themselves
WITHIN = ("fastadv::winograd_tiles", "mkldnn::_convolution_pointwise")

# for each model and architecture of its search twin: bytes a row, by the row's dtype and shape
_measured: "WeakKeyDictionary[nn.Module, dict[Any, dict[Any, int]]]" = WeakKeyDictionary()


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
    """How many rows pass one search twin of a model at once.

    A row is measured once for a model, its shape and its dtype, and again where its modules have changed.
    """

    def __init__(self, source: nn.Module, search: nn.Module, winograd: bool) -> None:
        """Plan for a model: `winograd` says whether its convolutions may go by that method."""
        self._source, self._search, self._winograd = source, search, winograd
        self.fastest: dict[tuple[Any, ...], int] = {}  # what `at_once` has found
        self._tuned: dict[tuple[Any, ...], int] = {}  # what `tuned` has; 0 before

    @classmethod
    def of(cls, source: object, form: Form) -> "Parts | None":
        """None for a function, of which nothing is known, and for compiled code, which is for one shape."""
        known = isinstance(source, nn.Module) and isinstance(form.model, nn.Module)
        if form.compiled or not known:
            return None
        return cls(cast(nn.Module, source), cast(nn.Module, form.model), "winograd" in form.rewriting.names)

    def worth_splitting(self, x: Tensor) -> bool:
        """Return whether x [B, ...] may gain from passing in parts."""
        many = len(x) > LEAST * torch.get_num_threads() and x.numel() * x.element_size() * WIDEST > BYTES
        return many and x.device.type == "cpu" and self.may_split

    def repeats(self, x: Tensor) -> bool:
        """Return whether as many rows like x passed before."""
        known = (key := _kind_of(x)) in self._tuned
        self._tuned.setdefault(key, 0)
        return known

    def tuned(self, chooser: Chooser, x: Tensor, usual: int, take: Callable[[slice], object]) -> int:
        """Return how many rows of x pass at once in the least time, in place of `usual`.

        take: passes a part of x, to measure what this machine does not know yet of such an architecture.
        """
        key = _kind_of(x)
        if not self._tuned.get(key):
            best, shape = (usual, 1.0), "x".join(map(str, x.shape[1:]))
            kind = f"{_digest(self._search)} {shape}, threads {key[-1]}"
            for rows in others(usual, len(x)):
                call = f"rows {rows}, not {usual}, of {kind}"
                taken = chooser.seconds(call, partial(compared, take, rows, usual))
                if taken is not None and is_faster(taken) and taken[0] / taken[1] < best[1]:
                    best = rows, taken[0] / taken[1]
            self._tuned[key] = best[0]
        return self._tuned[key]

    def at_once(self, run: Callable[[Tensor], Tensor], x: Tensor) -> int:
        """Return how many rows like x [3, ...] to pass at once, which `run` passes to find out."""
        key = (x.dtype, *x.shape[1:])
        if key not in self._bytes_a_row:
            self._bytes_a_row[key] = max(_bytes_of_a_row(run, x), 1)
        return max(self._most // self._bytes_a_row[key], LEAST * torch.get_num_threads())

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

    @cached_property
    def _bytes_a_row(self) -> dict[tuple[Any, ...], int]:
        return _measured.setdefault(self._source, {}).setdefault(_architecture(self._search), {})


def others(usual: int, most: int) -> list[int]:
    """Return the other numbers of rows that are tried, the likeliest first."""
    least = LEAST * torch.get_num_threads()
    return [rows for rows in (2 * usual, usual // 2, 4 * usual) if least <= rows <= most]


def compared(take: Callable[[slice], object], rows: int, usual: int, most: float) -> Seconds | None:
    """Return the seconds a row of either part; None as soon as more than `most` would be taken in all."""
    ends = time.perf_counter() + most
    taken: dict[int, list[float]] = {usual: [], rows: []}
    for _ in range(TURNS):
        for count, times in taken.items():
            started = time.perf_counter()
            left = TURNS - len(times)
            if started + left * min(taken[usual], default=0.0) * (usual + rows) > ends:
                return None
            take(slice(0, count))
            times.append((time.perf_counter() - started) / count)
    return agreed(taken[rows][1:], taken[usual][1:])


def mixes_rows(model: nn.Module) -> bool:
    """Return whether a BatchNorm takes its statistics from the batch."""
    norms = [part for part in model.modules() if isinstance(part, BatchNorm)]
    return any(norm.training or norm.running_mean is None for norm in norms)


def _architecture(model: nn.Module) -> tuple[Any, ...]:
    """Return what the sizes of activations depend on: types, settings and shapes of all parts."""
    return tuple(
        (_kind(part), part.extra_repr(), *(tensor.shape for tensor in part.parameters(recurse=False)))
        for part in model.modules()
    )


def _digest(model: nn.Module) -> str:
    """Return a name of its architecture and precision that holds in other processes."""
    names = [type(part).__qualname__ for part in model.modules()]
    sizes = [told[1:] for told in _architecture(model)]
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    return hashlib.sha256(repr((names, sizes, dtypes)).encode()).hexdigest()[:12]


def _kind_of(x: Tensor) -> tuple[Any, ...]:
    return len(x), x.dtype, x.shape[1:], torch.get_num_threads()


def _kind(part: nn.Module) -> object:
    """Its type, or its code where it was traced: each trace has a type of its own."""
    return part.code if isinstance(part, fx.GraphModule) else type(part)
