"""Minimum-norm attacks in commands: no radius, one run for all radii, export and resume."""

import json
import math
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.attacks import AttackResult
from fastadv.attacks.core.card import REGISTRY
from fastadv.data import load
from fastadv.evaluation import Curve
from fastadv.runs.files import load_tensors

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
    only = fa.attacks.Attack(ladder, kind="minimum", norms=("l2",))
    monkeypatch.setitem(fa.attacks.ATTACKS, "ladder_l2", only)
    monkeypatch.setitem(REGISTRY, "ladder_l2", only)


def measured(trained, **options):
    attack = partial(ladder, threat=fa.Linf(math.inf), **options)
    return fa.evaluate(trained, load("digits", "test", limit=COUNT), {"a": attack}).rows[0]


@pytest.mark.slow
def test_no_radius_is_needed_and_one_bounds_the_search(fastadv, net, trained):
    done = fastadv(f"attack {net} -n {COUNT} -a ladder --seed 4 --json")
    (told,) = done.json["measured"]["attacks"]
    row = measured(trained, seed=4)
    assert told["median_distance"] == row.median_distance
    assert told["median_interval"] == list(row.median_interval)
    assert told["robust_accuracy"] is None  # without a radius it says nothing
    assert {radius for radius, _ in RUNS} == {math.inf}
    RUNS.clear()
    done = fastadv(f"attack {net} -n {COUNT} -a ladder --radius 0.01 --json")
    (told,) = done.json["measured"]["attacks"]
    assert [told[key] for key in ("label", "attack", "norm", "radius")] == [
        "ladder L∞ 0.01", "ladder", "linf", 0.01,
    ]  # fmt: skip
    assert told["median_distance"] is None  # most hold
    assert told["robust_accuracy"] > row.robust_accuracy
    assert {radius for radius, _ in RUNS} == {0.01}
    assert "inf [" in fastadv(f"attack {net} -n {COUNT} -a ladder:radius=0.01,rungs=1").out


@pytest.mark.slow
def test_one_run_gives_the_accuracy_at_all_radii(fastadv, folder, net, trained):
    line = f"evaluate {net} -n {COUNT} -a ladder --radii 0.2,0,0.1,0.06 --no-indicators"
    done = fastadv(line, "--json")
    assert [len(ids) for _, ids in RUNS] == [COUNT]
    (curve,) = done.json["measured"]["curves"]
    expected = Curve.from_distances(measured(trained).distance, [0, 0.06, 0.1, 0.2])
    told = {"label": "ladder L∞", "attack": "ladder", "norm": "linf", "radii": [0, 0.06, 0.1, 0.2]}
    assert (told | {"accuracy": expected.accuracy.tolist()}).items() <= curve.items()
    assert len(set(curve["accuracy"])) > 2
    both = fastadv(f"{line} -a pgd:steps=2,radius=0.1 --json")
    labels = [one["label"] for one in json.loads(both.out)["measured"]["curves"]]
    assert labels == ["ladder L∞", "pgd:steps=2,radius=0.1"]


@pytest.mark.slow
def test_every_sample_is_written_with_the_attack_that_came_nearest(fastadv, folder, net, trained):
    line = f"evaluate {net} -n {COUNT} -a ladder:rungs=5 -a ladder --out all.safetensors --batch-size 15"
    fastadv(f"{line} --no-indicators")
    written, metadata = load_tensors(folder / "all.safetensors")
    digits = load("digits", "test", limit=COUNT)
    attacks = {name: partial(ladder, threat=fa.Linf(math.inf), rungs=n) for name, n in (("a", 5), ("b", 6))}
    kept = fa.evaluate(trained, digits, attacks, keep_samples=True, indicators=False).samples
    assert written.keys() == vars(kept).keys() >= {"x", "x_adv", "y", "ids", "success", "status", "distance"}
    for name, value in vars(kept).items():
        torch.testing.assert_close(written[name], value, rtol=1e-4, atol=1e-5)
    assert {0, 1} <= set(written["by"].tolist())
    attacks = json.loads(metadata["card"])["config"]["attacks"]
    assert [one["label"] for one in attacks] == ["ladder:rungs=5", "ladder L∞"]


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
