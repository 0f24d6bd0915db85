"""Every attack beside its peers by time: passes, results, and the nets that are trained for it."""

from itertools import count
from types import SimpleNamespace

from torch import nn

import bench.suite.__main__ as suite
import fastadv.attacks
from bench.suite import passes
from bench.suite.__main__ import rows
from bench.suite.passes import Log, alone
from tests.parity.case import Case
from tests.parity.peers import Peer
from tests.parity.toy import Threshold, X, Y, absent, peer, result


def test_rows_compare_with_the_best_and_count_passes():
    peers = (peer("far", 0.5), peer("near", 0.4), Peer("absent", "", absent))
    toy = Case("toy", "linf", peers, {"steps": 3}, {"steps": 1})
    found = {row["provider"].split()[0]: row for row in rows(toy, Threshold(), X[:3], Y[:3], "full", turns=1)}
    assert set(found) == {"far", "near"}
    assert [found[name]["no_worse"] for name in ("far", "near")] == [False, True]
    assert found["near"]["forwards"] == 9
    assert found["near"]["backwards"] == 0
    known = [{"median": 0.3, "images": 3}]
    assert not any(row["no_worse"] for row in rows(toy, Threshold(), X[:3], Y[:3], "quick", 1, known))


def test_an_equal_robust_accuracy_is_no_worse():
    toy = Case("toy", "linf", (peer("still"),), {}, {}, radius=0.1)
    (row,) = rows(toy, Threshold(), X[:4], Y[:4], "full", 1)
    assert row["found"] == 0.75
    assert row["no_worse"] is True


def test_time_over_the_ideal_and_against_the_fastest_peer(monkeypatch):
    taken = {"slow": 12.0, "fast": 9.0, "ours": 3.0}
    last = []
    logs = []

    def timed(way):
        result = way()
        return taken[last.pop()], result

    def timed_peer(name):
        def run(model, x, y, radius):
            last[:] = [name]
            model(x)
            return x

        return Peer(name, "", run)

    def toy(model, x, y, threat):
        last[:] = ["ours"]
        model(x)
        model.input_gradient(x[:2], y[:2])
        return result(x)

    def seconds(log):
        if log != [("forward", 5)]:  # ours: a search, and what compares its gradient with the model's
            assert ("backward", 2) in log
        logs.append(log)
        return 1.5

    monkeypatch.setattr(fastadv.attacks, "toy", toy, raising=False)
    monkeypatch.setattr(suite, "wall", timed)
    monkeypatch.setattr(suite, "time", SimpleNamespace(process_time=count().__next__))
    monkeypatch.setattr(suite, "alone", lambda model, x, y: seconds)
    toys = Case("toy", "linf", (timed_peer("slow"), timed_peer("fast")), {}, {})
    found = {
        row["provider"].removeprefix("fastadv ").split()[0]: row
        for row in rows(toys, nn.Linear(2, 3), X, Y, "full", turns=2)
    }
    over = {name: row["over_ideal"] for name, row in found.items()}
    assert over == {"fp32": 2, "bf16": 2, "slow": 8, "fast": 6}
    assert [found[precision]["times_peer"] for precision in ("fp32", "bf16")] == [3.0, 3.0]
    assert [row["forwards"] for row in found.values()] == [log.samples("forward") for log in logs]
    assert all(row["processor_seconds"] == [1, 1] for row in found.values())
    # in bfloat16 the gradient is compared with that of the model as given, for once
    assert [row["backwards"] for row in found.values()] == [2, 4, 0, 0]


def test_passes_alone_are_timed_in_the_batches_that_passed(monkeypatch):
    sizes = []

    def timed(way):
        """A forward of n samples takes n * n seconds, with its backward three times as long."""
        sizes.append(len(way.args[0]))
        return len(way.args[0]) ** 2 * (3.0 if "gradient" in way.func.__name__ else 1.0), way()

    monkeypatch.setattr(passes, "wall", timed)
    model = nn.Linear(2, 3)
    log = Log([("forward", 8), ("forward", 3), ("backward", 2)])
    ideal = alone(model, X, Y)
    assert ideal(log) == 64 + (4 + 16) / 2 + 2 * 4
    assert set(sizes) == {2, 4, 8}
    sizes.clear()
    assert ideal(Log([("backward", 8), ("forward", 4), ("forward", 16)])) == 2 * 64 + 16 + 256
    assert set(sizes) == {16}
