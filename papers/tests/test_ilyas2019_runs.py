"""The studies of features and of theory, tiny: what they return, write and draw."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from papers.ilyas2019 import features, gaussian, theory
from papers.ilyas2019.usefulness import Kind


@pytest.mark.slow
def test_theory_writes_checks_and_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(gaussian, "DRAWS", 50)
    monkeypatch.setattr(gaussian, "STARTS", 3)
    monkeypatch.setattr(theory, "SIZE", 4)
    settings = theory.Settings(radii=(1.0,), samples=40, epochs=3, steps=2)
    result = theory.run(settings, tmp_path)
    told = result["measured"]["checks"]
    proved = [check for check in told if "training" not in check["claim"] and "its" not in check["claim"]]
    assert len(proved) == 15
    assert all(check["holds"] for check in proved)
    # three epochs are not enough, and the table says so
    assert not all(check["holds"] for check in told)
    assert "FAILS" in {line[-1] for line in theory.table(result)}
    assert [each["radius"] for each in result["measured"]["learned"]] == [0.0, 1.0]
    assert result["measured"]["learned"][0]["penalty"] is None
    assert json.loads((tmp_path / "results.json").read_text())["measured"]["checks"] == told
    for path in result["measured"]["figures"].values():
        assert Path(path).stat().st_size > 10_000
    assert "at 1" in theory.notes(result)[1]


@pytest.mark.slow
def test_features_of_both_nets_are_measured_and_kept(tmp_path):
    settings = replace(features.TINY, samples=40, radius=0.1, steps=2)
    result = features.run(settings, tmp_path)
    nets = result["measured"]["nets"]
    assert list(nets) == ["standard", "adversarial"]
    for net in nets.values():
        assert sum(net["shares"].values()) == pytest.approx(1)
        assert net["samples"] == result["config"]["test"]["samples"]
        assert len(net["features"][0]["rho"]) == 10
    assert Path(result["measured"]["figures"]["usefulness"]).stat().st_size > 10_000
    cells = features.table(result)
    assert [line[0] for line in cells] == ["net", "standard", "adversarial"]
    before = (tmp_path / "nets" / "standard" / "model.safetensors").stat().st_mtime_ns
    again = features.run(replace(settings, radius=0.2), tmp_path)
    assert (tmp_path / "nets" / "standard" / "model.safetensors").stat().st_mtime_ns == before
    for name, net in again["measured"]["nets"].items():
        for far, near in zip(net["features"], nets[name]["features"], strict=True):
            assert far["rho"] == near["rho"]
            if far["gamma"] is not None:
                assert sum(far["gamma"]) < sum(near["gamma"])


def test_medians_are_over_features_each_for_the_class_that_it_serves_best():
    told = [([0.1, 0.5], [0.4, 0.2]), ([0.3, 0.2], [-0.1, 0.9]), ([0.6, 0.1], [0.3, 0.0])]
    features_ = [{"rho": rho, "gamma": gamma} for rho, gamma in told] + [{"rho": [0, 0], "gamma": None}]
    shares = {kind.title: share for kind, share in zip(Kind, (0.5, 0.25, 0.25), strict=True)}
    result = {"measured": {"nets": {"standard": {"features": features_, "shares": shares}}}}
    head, line = features.table(result)
    assert dict(zip(head, line, strict=True)) == {
        "net": "standard", "features": "4", "median rho": "0.5", "median gamma": "0.2",
        **{title: f"{share:.0%}" for title, share in shares.items()},
    }  # fmt: skip
