"""CUDA graphs: the sizes that share one, when one is captured, and which are released."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastadv import _graphs
from fastadv._graphs import Kept, Replay, bucket, nbytes


def test_buckets_pad_by_a_quarter_at_most() -> None:
    sizes = [bucket(n) for n in range(1, 3000)]
    assert all(n <= size <= n * 1.25 for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 50
    assert [bucket(n) for n in (1, 7, 8, 9, 17, 1000)] == [1, 7, 8, 10, 20, 1024]


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("or_run", [True, False])
def test_a_shape_is_captured_the_second_time(
    able: bool, or_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    reserved = iter((100, 164))

    class Graph:
        def replay(self) -> None:
            done.append("replayed")

    @contextlib.contextmanager
    def capture(graph: Graph, **options: Any) -> Iterator[None]:
        done.append("captured" if able else "refused")
        if not able:
            raise RuntimeError("capture is not allowed here")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: next(reserved))
    replay = Replay(lambda: done.append("run"), or_run)
    replay()
    assert (done, replay.reserved) == (["run"], 0)
    if able:
        replay()
        replay()
        assert (done, replay.reserved) == (["run", "captured", "run", "replayed", "replayed"], 64)
    elif or_run:
        replay()
        replay()
        assert done == ["run", "refused", "run", "run"]
    else:
        with pytest.raises(RuntimeError, match="not allowed here"):
            replay()


class TestKept:
    def test_calls_alike_share_one(self) -> None:
        kept: Kept[list[int]] = Kept()
        assert kept.get("a", list) is kept.get("a", list)
        assert kept.get("a", list) is not kept.get("b", list)
        assert len(kept) == 2

    def test_the_longest_unused_is_released_beyond_the_count(self) -> None:
        kept: Kept[str] = Kept(most=2)
        for key in ("a", "b", "a", "c"):
            kept.get(key, lambda key=key: key)  # type: ignore[misc]
            kept.weigh(key, 1)
        assert len(kept) == 2
        assert kept.get("a", lambda: "made anew") == "a"
        assert kept.get("b", lambda: "made anew") == "made anew"

    def test_so_it_is_beyond_the_memory_but_the_newest_stays(self) -> None:
        kept: Kept[str] = Kept(memory=100)
        for key, size in (("a", 40), ("b", 60), ("c", 30)):
            kept.get(key, lambda key=key: key)  # type: ignore[misc]
            kept.weigh(key, size)
        assert (len(kept), kept.bytes) == (2, 90)
        kept.get("large", lambda: "large")
        kept.weigh("large", 1000)
        assert (len(kept), kept.bytes) == (1, 1000)

    def test_what_grew_counts_anew(self) -> None:
        kept: Kept[str] = Kept(memory=100)
        for key, size in (("a", 40), ("b", 40), ("b", 70)):
            kept.get(key, lambda key=key: key)  # type: ignore[misc]
            kept.weigh(key, size)
        assert (len(kept), kept.bytes) == (1, 70)


def test_shared_memory_counts_once() -> None:
    whole = torch.zeros(10, 4)
    assert nbytes((whole, whole[2:], whole.view(-1), torch.zeros(3, dtype=torch.bool))) == 163


def test_no_gpu_is_asked_for_a_stream() -> None:
    cpu = torch.device("cpu")
    with _graphs.current(cpu):
        assert _graphs.stream_of(cpu) == (cpu, 0)
