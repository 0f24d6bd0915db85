"""How many rows pass a model at once: those that fit into memory, and on a CPU those that are fastest."""

import logging
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastadv._torch import BatchNorm, DispatchMode
from fastadv.engine.capture import release
from fastadv.engine.rewrite import has_conv2d

log = logging.getLogger("fastadv")

# kinds of passes, each with room for its own number of rows: a step of most attacks, several gradients of one
# pass, logits of a search copy, and the model as given
GRADIENT, JACOBIAN, LOGITS, VERDICT = "gradient", "jacobian", "logits", "verdict"

T = TypeVar("T")  # a tensor [B, ...], or a tuple of such


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that the memory of a GPU or of the process ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def may_halve(error: BaseException, x: Tensor, apart: Callable[[], bool]) -> bool:
    """Return whether a pass of x ran out of memory, and halves of it may pass `apart`."""
    return x.shape[0] > 1 and ran_out(error) and apart()


def joined(parts: list[T]) -> T:
    results: list[Any] = parts
    if isinstance(parts[0], Tensor):
        return cast(T, torch.cat(results))
    return cast(T, tuple(torch.cat(tensors) for tensors in zip(*results, strict=True)))


class Room:
    """The most rows of each shape that were found to fit."""

    def __init__(self) -> None:
        self._most: dict[Any, int] = {}

    def most(self, kind: str, x: Tensor) -> int:
        """Return how many rows of x fit into that kind of pass, as far as is known."""
        rows = x.shape[0]
        return min(self._most.get((kind, x.dtype, x.shape[1:]), rows), rows) if self._most else rows

    def halve(self, kind: str, x: Tensor, count: int) -> int:
        """Return, and keep in mind, half of so many rows of x, which did not fit; free memory."""
        most = self._most[kind, x.dtype, x.shape[1:]] = (count + 1) // 2
        log.warning(
            "memory ran out with %d samples of shape %s at once; going on with %d",
            count, tuple(x.shape[1:]), most,
        )  # fmt: skip
        release()
        if x.is_cuda:
            torch.cuda.empty_cache()
        return most

    def passes(
        self, kind: str, step: Callable[..., T], x: Tensor, *rows: Tensor | None, apart: Callable[[], bool],
        most: int = 0,
    ) -> T:  # fmt: skip
        """Return step(x, *rows), in parts of `most` rows or what fits, if they may pass `apart`."""
        size = x.shape[0]
        if size <= min(most or size, self.most(kind, x)):
            try:
                return step(x, *rows)
            except Exception as error:
                if not may_halve(error, x, apart):
                    raise
            # Outside of `except`: the error holds on to what the pass had in memory
            self.halve(kind, x, size)
        most = min(most or size, self.most(kind, x))
        count = math.ceil(size / most)
        split = ([None] * count if one is None else one.tensor_split(count) for one in (x, *rows))
        parts = zip(*split, strict=True)
        return joined([self.passes(kind, step, *part, apart=apart, most=most) for part in parts])

    def jacobian(
        self, step: Callable[..., T], x: Tensor, directions: Tensor | Callable[[Tensor], Tensor],
        logits: Callable[[Tensor], Tensor], apart: Callable[[], bool],
    ) -> T:  # fmt: skip
        """Return step(x, directions), in parts that fit."""
        if callable(directions):
            if self.most(JACOBIAN, x) >= x.shape[0]:
                try:
                    return step(x, directions)
                except Exception as error:
                    if not may_halve(error, x, apart):
                        raise
                self.halve(JACOBIAN, x, x.shape[0])  # outside of `except`, as above
            # chosen of the whole batch, as a function may know of its samples
            directions = directions(logits(x))
        return self.passes(JACOBIAN, step, x, directions, apart=apart)


_known: "WeakKeyDictionary[nn.Module, Room]" = WeakKeyDictionary()


def room_of(model: object) -> Room:
    """Return what is known of the model so far; of a function, nothing is kept."""
    return _known.setdefault(model, Room()) if isinstance(model, nn.Module) else Room()


# Bytes of the largest activation of a part; twice as much where products of Winograd's method in float32
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

    def __init__(self, model: object, wide: bool) -> None:
        """Plan for a model: `wide` says that products of Winograd's method gain by more rows."""
        self._splits = isinstance(model, nn.Module) and has_conv2d(model)
        self._factor = 2 if wide else 1
        self._bytes_a_row: dict[tuple[Any, ...], int] = {}

    def measure(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """Find by how much the tensor that grows most does so with a row like x [B, ...]."""
        key, taken = (x.dtype, x.shape[1:]), []
        if key in self._bytes_a_row or not (self._splits and x.is_cpu):
            return
        few = x[:1].expand(PROBE, *x.shape[1:]).contiguous()
        with torch.no_grad():
            run(few)  # for what is made once, such as transformed weights
            for rows in (few, few[:-1]):
                with _Sizes() as sizes:
                    run(rows)
                taken.append(sizes.bytes)
        growth = [more - less for more, less in zip(*taken, strict=False)]
        self._bytes_a_row[key] = max(growth, default=0)

    def full(self, x: Tensor) -> int:
        """Return how many rows like x [B, ...] to pass at once; 0 where they were not measured."""
        row = self._bytes_a_row.get((x.dtype, x.shape[1:]), 0)
        return max(self._factor * BYTES // row, LEAST * torch.get_num_threads()) if row else 0


def mixes_rows(model: nn.Module) -> bool:
    """Return whether a BatchNorm takes its statistics from the batch."""
    norms = [part for part in model.modules() if isinstance(part, BatchNorm)]
    return any(norm.training or norm.running_mean is None for norm in norms)
