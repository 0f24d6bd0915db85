"""CUDA graphs: which batch sizes share one, when one is captured, and how many are kept."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

MOST, MEMORY = 32, 1 << 30  # graphs kept for one owner, and their bytes
_capturing = threading.RLock()  # nobody may wait for a device while one of its streams is captured


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


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One for all captures of a device: libraries keep a workspace for each stream they have met.

    torch's own belongs to the first device that captured.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """What `run` launches on the current device, to be launched again on the same memory."""
    graph, stream = torch.cuda.CUDAGraph(), _side_stream(torch.cuda.current_device())
    # torch does not leave the side stream where a capture fails
    back = torch.cuda.stream(torch.cuda.current_stream())
    with _capturing, back, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        run()
    return graph.replay


class Replay:
    """Does a step the first time, which compiles its kernels, and replays a CUDA graph of it from then on.

    The graph is captured at the second call, so a shape that is met once costs no capture. Where that is not
    allowed, RuntimeError; with `or_run` the step is done each time instead. `reserved` are the bytes that the
    capture took.
    """

    def __init__(self, or_run: bool = False) -> None:
        self._or_run, self._calls, self.reserved = or_run, 0, 0
        self._graph: Callable[[], None] | None = None

    def __call__(self, make: Callable[[], Callable[[], None]]) -> None:
        """make() gives the step, always the same, which is not held on to."""
        if self._graph is not None:
            return self._graph()
        run = make()
        if self._calls == 1:
            try:
                run = self._graph = capture(partial(self._measured, run))
            except RuntimeError:
                if not self._or_run:
                    raise
        run()
        self._calls += 1

    def _measured(self, run: Callable[[], None]) -> None:
        before = torch.cuda.memory_reserved()  # not earlier: a capture begins by emptying torch's cache
        run()
        self.reserved = max(torch.cuda.memory_reserved() - before, 0)


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
