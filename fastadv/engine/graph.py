"""Steps over batches of samples, captured as CUDA graphs, one for each bucket of batch sizes."""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from fastadv.ops._graphs import Kept, Replay, bucket, current, nbytes, stream_of

Gradient = tuple[Tensor, Tensor, Tensor]
# tensors of one row a sample, by name
Rows = dict[str, Tensor]
Step = Callable[[], None]


class Graphs:
    """Replays steps on static rows, whose spare ones repeat real samples or keep earlier ones."""

    def __init__(self) -> None:
        self._kept: Kept[tuple[Rows, Replay]] = Kept()
        self._lock, self._here = threading.Lock(), threading.local()

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self) -> None:
        """Capture anew from now on."""
        self._kept = Kept()

    @property
    def replays(self) -> bool:
        """Whether this thread is in a step of a graph, where no value may be read."""
        return getattr(self._here, "replays", False)

    @property
    def aside(self) -> bool:
        """Whether graphs are off in this thread, as in a step of one."""
        return getattr(self._here, "aside", False)

    @contextmanager
    def set_aside(self, replays: bool = False) -> Iterator[None]:
        """Switch graphs off in this thread; `replays`: inside is a step of one."""
        here, before = self._here, (self.aside, self.replays)
        here.aside, here.replays = True, replays or self.replays
        try:
            yield
        finally:
            here.aside, here.replays = before

    def __call__(
        self, key: Hashable, given: Mapping[str, Tensor | None], make: Callable[[Rows], Step],
        wanted: tuple[str, ...], times: int = 1,
    ) -> list[Tensor]:  # fmt: skip
        """Return what `times` steps in a row make of the rows `given`: copies of those that are `wanted`.

        make(rows) gives the step, which reads, writes and may add to `rows`. Once captured it is replayed for
        rows of the same bucket and kinds, so `key` must name everything else that the step depends on.
        """
        known = {name: tensor for name, tensor in given.items() if tensor is not None}
        first = next(iter(known.values()))
        kinds = tuple((name, t.shape[1:], t.dtype, _channels_last(t)) for name, t in known.items())
        with self._lock, current(first.device):
            whole = key, bucket(len(first)), kinds, stream_of(first.device)
            kept = self._kept
            rows, replay = kept.get(whole, partial(_made, known, bucket(len(first))))
            for name, tensor in known.items():
                rows[name][: len(first)].copy_(tensor)
            with self.set_aside(replays=True):
                for _ in range(times):
                    replay(partial(make, rows))
            kept.weigh(whole, nbytes(rows.values()) + replay.reserved)
            return [rows[name][: len(first)].clone() for name in wanted]


def _made(given: Rows, size: int) -> tuple[Rows, Replay]:
    return {name: padded(tensor, size) for name, tensor in given.items()}, Replay()


def padded(tensor: Tensor, size: int) -> Tensor:
    """Return a copy with `size` rows in the same layout; spare ones repeat real samples."""
    copy = tensor[torch.arange(size, device=tensor.device) % len(tensor)]
    return copy.contiguous(memory_format=torch.channels_last) if _channels_last(tensor) else copy


def _channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
