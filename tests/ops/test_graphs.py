"""CUDA graphs: the sizes that share one, when one is captured, and which are released."""

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


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("or_run", [True, False])
def test_a_shape_is_captured_the_second_time(able, or_run, monkeypatch):
    done: list[str] = []

    def capture(run: Any) -> Any:
        done.append("captured" if able else "refused")
        if not able:
            raise RuntimeError("capture is not allowed here")
        return lambda: done.append("replayed")

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(_graphs, "capture", capture)
    replay, step = Replay(or_run), lambda: done.append("run")
    replay(lambda: step)
    assert done == ["run"]
    if able or or_run:
        replay(lambda: step)
        replay(lambda: step)
        assert done[-3:] == (["captured", "replayed", "replayed"] if able else ["refused", "run", "run"])
    else:
        with pytest.raises(RuntimeError, match="not allowed here"):
            replay(lambda: step)


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
