"""Rows of the suite: compared with the best peer, with the passes that they took."""

from bench.suite.__main__ import rows
from tests.parity.case import Case
from tests.parity.peers import Peer
from tests.parity.toy import Threshold, X, Y, absent, peer


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
