"""Forward and backward captured as CUDA graphs, one for each bucket of batch sizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradient = Callable[..., tuple[Tensor, Tensor, Tensor]]


def bucket(size: int) -> int:
    """The least power of two >= `size`, so that shrinking batches share few captures."""
    return 1 << max(0, size - 1).bit_length()


class GraphedGradient:
    """Replays `gradient(x, y, loss, targets, direction)` without launching its kernels one by one.

    A batch is copied into the static input of its bucket, whose spare rows keep earlier samples, and the
    results are copied out. The first batch of a bucket is captured, which waits for the GPU once.
    """

    def __init__(self, gradient: Gradient) -> None:
        self._gradient = gradient
        self._captured: dict[
            Any, tuple[torch.cuda.CUDAGraph, list[Tensor | None], tuple[Tensor, Tensor, Tensor]]
        ] = {}

    def __call__(
        self, x: Tensor, y: Tensor | None, loss: Any, targets: Tensor | None, direction: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        size = len(x)
        if size == 0:
            return self._gradient(x, y, loss, targets, direction)
        channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        key = (bucket(size), x.shape[1:], x.dtype, channels_last, y is None, targets is None, loss, direction)
        if key not in self._captured:
            self._captured[key] = self._capture(bucket(size), x, y, loss, targets, direction)
        graph, inputs, outputs = self._captured[key]
        for static, given in zip(inputs, (x, y, targets), strict=True):
            if static is not None and given is not None:
                static[:size].copy_(given)
        graph.replay()
        value, logits, gradient = outputs
        return value[:size].clone(), logits[:size].clone(), gradient[:size].clone()

    def _capture(
        self, rows: int, x: Tensor, y: Tensor | None, loss: Any, targets: Tensor | None, direction: bool
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None], tuple[Tensor, Tensor, Tensor]]:
        # spare rows repeat real samples, so that warming up meets no value the model would not
        index = torch.arange(rows, device=x.device) % len(x)
        inputs = [None if given is None else given[index] for given in (x, y, targets)]
        static_x, static_y, static_targets = inputs
        stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._gradient(static_x, static_y, loss, static_targets, direction)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._gradient(static_x, static_y, loss, static_targets, direction)
        return graph, inputs, outputs
