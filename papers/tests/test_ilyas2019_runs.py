"""The studies of features and of theory, tiny: what they return, write and draw."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from papers.ilyas2019 import features, gaussian, theory


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
    again = features.run(replace(settings, radius=0.2), tmp_path)
    for name, net in again["measured"]["nets"].items():
        for far, near in zip(net["features"], nets[name]["features"], strict=True):
            assert far["rho"] == near["rho"]
            if far["gamma"] is not None:
                assert sum(far["gamma"]) < sum(near["gamma"])
