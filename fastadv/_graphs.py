"""CUDA graphs: which batch sizes share one, when one is captured, and how many are kept."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

MOST, MEMORY = 32, 1 << 30  # graphs kept for one owner, and their bytes


def bucket(size: int) -> int:
    """`size` rounded up to a multiple of an eighth of a power of two.

    Batches that shrink then share few graphs, padded by at most a quarter.
    """
    step = 1 << max(0, (size - 1).bit_length() - 3)
    return -(-size // step) * step


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def stream_of(device: torch.device) -> tuple[torch.device, int]:
    """Where work on the device is queued now: what is kept for one stream serves no other."""
    return device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """What `run` launches on the current device, to be launched again on the same memory."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # of the current device; torch's own belongs to the first that captured
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        run()
    return graph.replay


class Replay:
    """Calls `run` the first time, which compiles its kernels, and replays a CUDA graph of it from then on.

    The graph is captured at the second call, so a shape that is met once costs no capture. Where that is not
    allowed, RuntimeError; with `or_run` `run` is called each time instead. `reserved` are the bytes that the
    capture took.
    """

    def __init__(self, run: Callable[[], None], or_run: bool = False) -> None:
        self._run, self._or_run, self._calls, self.reserved = run, or_run, 0, 0
        self._again = run

    def __call__(self) -> None:
        self._calls += 1
        if self._calls == 2:
            before = torch.cuda.memory_reserved()
            try:
                self._again = capture(self._run)
            except RuntimeError:
                if not self._or_run:
                    raise
            self.reserved = max(torch.cuda.memory_reserved() - before, 0)
        self._again()


def nbytes(tensors: Iterable[Tensor]) -> int:
    """The memory of tensors, some of which may share it."""
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


class Kept(Generic[T]):
    """What was made for calls alike, by what they have in common.

    At most `most` are kept, of no more than `memory` bytes; the longest unused is released first.
    """

    def __init__(self, most: int = MOST, memory: int = MEMORY) -> None:
        self._most, self._memory = most, memory
        self._made: OrderedDict[Hashable, T] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._made)

    @property
    def bytes(self) -> int:
        """The memory of all that is kept."""
        return sum(self._sizes.values())

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made for `key`, or is now."""
        if key not in self._made:
            self._made[key], self._sizes[key] = make(), 0
        self._made.move_to_end(key)
        return self._made[key]

    def weigh(self, key: Hashable, size: int) -> None:
        """Say that what is kept for `key` takes `size` bytes, and release others where that is too much.

        The newest stays, however large.
        """
        self._sizes[key] = size
        while len(self._made) > 1 and (len(self._made) > self._most or self.bytes > self._memory):
            oldest, _ = self._made.popitem(last=False)
            del self._sizes[oldest]
