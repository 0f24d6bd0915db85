"""A fixed sequence of launches over fixed buffers, replayed as one CUDA graph where there is a GPU."""

from collections.abc import Callable

import torch


class Replay:
    """Calls `run` the first time, which compiles its kernels, and replays a CUDA graph of it from then on.

    The graph is captured at the second call.

    So a shape that is met once costs no capture. Where capture fails `run` is called each time.
    """

    def __init__(self, run: Callable[[], None]) -> None:
        self._run, self._calls = run, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        self._calls += 1
        if self._calls == 2:
            self._graph = _captured(self._run)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()


def _captured(run: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # of the current device; torch's own belongs to the first that captured
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run()
    except RuntimeError:
        return None
    return graph


def bucket(size: int) -> int:
    """`size` rounded up to a multiple of an eighth of a power of two.

    Batches that shrink then share few graphs, padded by at most a quarter.
    """
    step = 1 << max(0, (size - 1).bit_length() - 3)
    return -(-size // step) * step
