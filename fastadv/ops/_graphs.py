"""CUDA graphs: which batch sizes share one, when one is captured, and how many are kept."""

import threading
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

MOST, MEMORY = 32, 1 << 30  # limits for one owner: number of graphs, and their bytes
_capturing = threading.RLock()  # waiting for a device is an error while one of its streams is captured


def bucket(size: int) -> int:
    """Round `size` up to a multiple of an eighth of a power of two: by at most a quarter."""
    step = 1 << max(0, (size - 1).bit_length() - 3)
    return -(-size // step) * step


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def stream_of(device: torch.device) -> tuple[torch.device, int]:
    """Return (device, current stream), the key of whatever may serve one stream only."""
    return device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """Return the stream of all captures on a device, since libraries keep a workspace for each stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """Record what `run` launches on the current device; the result launches it again on the same memory."""
    graph, stream = torch.cuda.CUDAGraph(), _side_stream(torch.cuda.current_device())
    # torch stays on the side stream if a capture fails
    back = torch.cuda.stream(torch.cuda.current_stream())
    with _capturing, back, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        run()
    return graph.replay


class Replay:
    """Run a step once, capture it the second time, and replay it from then on; `or_run` if it cannot be."""

    def __init__(self, or_run: bool = False) -> None:
        self._or_run, self._calls, self.reserved = or_run, 0, 0
        self._graph: Callable[[], None] | None = None

    def __call__(self, make: Callable[[], Callable[[], None]]) -> None:
        """Run the step that `make` returns, which must always be the same; no reference to it is kept."""
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
        before = torch.cuda.memory_reserved()  # read here, because a capture begins by emptying torch's cache
        run()
        self.reserved = max(torch.cuda.memory_reserved() - before, 0)


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Add up the memory of tensors; memory that several share counts once."""
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


class Kept(Generic[T]):
    """At most `most` entries of at most `memory` bytes, each taken for a call and given back after it."""

    def __init__(self, most: int = MOST, memory: int = MEMORY) -> None:
        self._most, self._memory, self._lock = most, memory, threading.Lock()
        self._entries: dict[Hashable, tuple[T, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: object) -> bool:
        return any(entry is kept for kept, _ in self._entries.values())

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self._entries.values())

    def take(self, key: Hashable) -> T | None:
        """Return the entry of `key`, which is nobody else's until it is given back; None for none."""
        with self._lock:
            return self._entries.pop(key, (None, 0))[0]

    def give_back(self, key: Hashable, entry: T, size: int) -> None:
        with self._lock:
            self._entries.pop(key, None)  # one that another thread has given back
            self._entries[key] = entry, size
            while len(self) > 1 and (len(self) > self._most or self.bytes > self._memory):
                del self._entries[next(iter(self._entries))]

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
