"""Minimum-norm attacks in commands: no radius, one run for all radii, export and resume."""

import math

import pytest

import fastadv as fa
from fastadv.attacks import AttackResult
from fastadv.attacks.core.card import REGISTRY

COUNT = 40
RUNS: list[tuple[float, list[int]]] = []


def ladder(model, x, y, threat, *, rungs: int = 6, seed: int = 0, ids=None) -> AttackResult:
    """FMN, its budget in rungs."""
    RUNS.append((float(threat.radius), ids.tolist()))
    return fa.attacks.fmn(model, x, y, threat, steps=rungs, ids=ids)


@pytest.fixture(autouse=True)
def attacks(monkeypatch):
    RUNS.clear()
    entry = fa.attacks.Attack(ladder, kind="minimum", norms=("l2", "linf"), random=True, paper="a paper")
    monkeypatch.setitem(fa.attacks.ATTACKS, "ladder", entry)
    monkeypatch.setitem(REGISTRY, "ladder", entry)


@pytest.mark.slow
def test_no_radius_is_needed_one_bounds_the_search_and_one_run_serves_all_radii(fastadv, net):
    line = f"evaluate {net} -n {COUNT} -a ladder --no-indicators --radii 0.2,0,0.1,0.06 --json"
    measured = fastadv(line).json["measured"]
    assert [(radius, len(ids)) for radius, ids in RUNS] == [(math.inf, COUNT)]
    (curve,), (row,) = measured["curves"], measured["attacks"]
    assert (curve["label"], curve["radii"]) == ("ladder L∞", [0, 0.06, 0.1, 0.2])
    assert len(set(curve["accuracy"])) > 2
    assert row["median_interval"][0] <= row["median_distance"] <= row["median_interval"][1]
    assert row["robust_accuracy"] is None  # without a radius it says nothing
    RUNS.clear()
    (row,) = fastadv(f"attack {net} -n {COUNT} -a ladder --radius 0.01 --json").json["measured"]["attacks"]
    assert (row["label"], row["radius"], row["median_distance"]) == ("ladder L∞ 0.01", 0.01, None)
    assert {radius for radius, _ in RUNS} == {0.01}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-a ladder -a ladder:norm=l2 --out a.safetensors", "one norm"),
        ("-a ladder --radius 0.1 --radii 0,0.2", "beyond the radius 0.1"),
        ("-a ladder --radii 0.1,inf", "radii: expected finite numbers of at least 0"),
    ],
)
def test_wrong_usage_is_two(refused, line, says):
    refused(f"evaluate -m small_cnn --data digits -n 5 {line}", says)
    assert RUNS == []
