"""The table of every attack beside others: rows, who is worse, and the page."""

from math import inf
from typing import Any

import pytest
import torch

import fastadv.attacks
from bench.suite import parity, wall
from tests.parity import cases as tested
from tests.parity.case import Case, queries
from tests.parity.models import Net
from tests.parity.peers import Peer
from tests.parity.store import STORES, stored
from tests.parity.toy import Threshold, absent, peer, result

X3, Y3 = torch.tensor([[0.2, 0.1], [0.2, 0.1], [0.05, 0.1]]), torch.tensor([0, 0, 0])


def test_the_pages_show_the_stored_rows():
    rows = stored(STORES["full"])
    assert wall.PAGE.read_text() == wall.page(rows), "run `python -m bench.suite.wall`"
    assert wall.TABLES.read_text() == wall.tables(rows), "run `python -m bench.suite.wall`"


@pytest.fixture
def toys(monkeypatch):
    """An attack of ours and three peers, of which one fails and one is not there; what ours was asked."""
    asked: list[Any] = []

    def toy(model, x, y, threat, *, queries):
        asked.append((threat.radius, queries))
        return result(x + torch.tensor([0.4, 0.0]), 6, 4)

    def broken(*given, **options):
        raise ValueError("no")

    peers = (peer("peer", 0.35), Peer("broken", "", broken), Peer("absent", "", absent))
    case = Case("toy", "l2", peers, {"steps": 30}, {"steps": 3}, ours=queries)
    net = Net(lambda *_: Threshold(), {"l2": 0.4})
    monkeypatch.setattr(fastadv.attacks, "toy", toy, raising=False)
    monkeypatch.setattr(parity, "WALL", {"toy": net})
    monkeypatch.setattr(parity, "NETS", {"toy": net})
    monkeypatch.setattr(tested, "NETS", {"toy": net})
    for module in (parity, tested):
        monkeypatch.setattr(module, "TESTED", ("toy",))
    for module in (parity, tested):
        monkeypatch.setattr(module, "cases_on", lambda net: (case,))
    monkeypatch.setattr(parity, "problem", lambda *given: (Threshold(), X3, Y3))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return asked


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["parity", *options])
    parity.main()


def figures(rows):
    return {
        (r["package"], r["radius"]): r.get("error", r.get("median", r.get("robust_accuracy"))) for r in rows
    }


@pytest.mark.usefixtures("recwarn")
def test_a_peer_is_judged_with_and_without_the_radius_and_ours_gets_its_passes(toys, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    run(monkeypatch, "--out", str(path))
    rows = stored(path)
    assert figures(rows) == {
        ("peer", inf): 0.35, ("peer", 0.4): 0.3333, ("broken", inf): "ValueError: no",
        ("broken", 0.4): "ValueError: no", ("fastadv", inf): 0.4, ("fastadv", 0.4): 0.3333,
    }  # fmt: skip
    assert toys == [(inf, 30), (0.4, 30)]
    spent = {r["package"]: (r["forwards"], r["backwards"]) for r in rows if "error" not in r}
    assert spent == {"peer": (90, 0), "fastadv": (6, 4)}
    assert not any("distances" in r for r in rows)
