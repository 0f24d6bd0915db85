"""CUDA graphs: the sizes that share one, when one is captured, and which are released."""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from fastadv.ops import _graphs
from fastadv.ops._graphs import Kept, Replay, bucket, nbytes


def test_buckets_pad_by_a_quarter_at_most() -> None:
    sizes = [bucket(n) for n in range(1, 3000)]
    assert all(n <= size <= n * 1.25 for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 50
    assert [bucket(n) for n in (1, 7, 8, 9, 17, 1000)] == [1, 7, 8, 10, 20, 1024]


class Gpu:
    """A GPU that captures, or refuses to: what was done, its current stream and its memory."""

    def __init__(self, able: bool) -> None:
        self.able, self.done, self.stream, self.reserved, self.streams = able, [], "main", 500, 0

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "Stream", self.new_stream)
        monkeypatch.setattr(torch.cuda, "graph", self.capturing)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.stream)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: self.reserved)
        monkeypatch.setattr(_graphs, "_side_stream", cache(_graphs._side_stream.__wrapped__))

    def new_stream(self, device: int) -> str:
        self.streams += 1
        return "side"

    def replay(self) -> None:
        self.done.append("replayed")

    @contextlib.contextmanager
    def on(self, stream: str) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextlib.contextmanager
    def capturing(self, graph: "Gpu", stream: str, **options: Any) -> Iterator[None]:
        """Like torch's, it empties the cache first, and stays on its stream where it fails."""
        before, self.stream, self.reserved = self.stream, stream, 100
        yield
        self.done.append("captured" if self.able else "refused")
        if not self.able:
            raise RuntimeError("capture is not allowed here")
        self.stream = before

    def step(self) -> None:
        self.done.append("run")
        self.reserved += 64


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("or_run", [True, False])
def test_a_shape_is_captured_the_second_time(able, or_run, monkeypatch):
    gpu = Gpu(able)
    gpu.patch(monkeypatch)
    replay = Replay(or_run)
    replay(lambda: gpu.step)
    assert (gpu.done, replay.reserved) == (["run"], 0)
    if able or or_run:
        replay(lambda: gpu.step)
        replay(lambda: gpu.step)
        way = ["captured", "replayed", "replayed"] if able else ["refused", "run", "run"]
        assert gpu.done == ["run", "run", *way]
        assert replay.reserved == 64 or not able
    else:
        with pytest.raises(RuntimeError, match="not allowed here"):
            replay(lambda: gpu.step)
    assert gpu.stream == "main"


@pytest.mark.parametrize(
    ("limits", "calls", "left"),
    [
        ({"most": 2}, [("a", 1), ("b", 1), ("a", 1), ("c", 1)], {"a": 1, "c": 1}),
        ({"memory": 100}, [("a", 40), ("b", 60), ("c", 30)], {"b": 60, "c": 30}),
        ({"memory": 100}, [("a", 40), ("b", 40), ("b", 70)], {"b": 70}),
        ({"memory": 100}, [("a", 40), ("large", 1000)], {"large": 1000}),
    ],
    ids=["count", "memory", "grown", "the newest stays"],
)
def test_the_longest_unused_is_released(limits, calls, left):
    kept: Kept[str] = Kept(**limits)
    for key, size in calls:
        kept.give_back(key, kept.take(key) or "first", size)
    assert (len(kept), kept.bytes) == (len(left), sum(left.values()))
    assert {kept.take(key) for key in left} == {"first"}
    assert kept.take(calls[-1][0]) is None  # until it is given back
    for entry in ("one", "other"):  # made by two threads at once
        kept.give_back("a", entry, 1)
    assert len(kept) == 1
    kept.clear()
    assert kept.take("a") is None


def test_shared_memory_counts_once() -> None:
    whole = torch.zeros(10, 4)
    assert nbytes((whole, whole[2:], whole.view(-1), torch.zeros(3, dtype=torch.bool))) == 163
