"""What the stages of the pipeline measure and tell, against cases whose answers are known."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.studies.ilyas2019 import figures, pipeline, plan, report
from tests.studies.ilyas import MINI


class Line(nn.Module):
    """Class 1 where the first pixel is above a threshold: as far away as it is from that, in L2."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, x):
        ahead = 5 * (x.flatten(1)[:, 0] - self.threshold)
        return torch.stack([-ahead, ahead], 1)


@pytest.mark.slow
def test_every_net_is_measured_on_the_test_images_at_its_radii(tmp_path, monkeypatch):
    first, y = torch.tensor([0.5, 0.8, 0.65, 0.3, 0.9, 0.1, 0.55]), torch.tensor([1, 1, 1, 0, 0, 0, 1])
    x = torch.full((7, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = first
    nets = {name: Line(0.317 + 0.02 * place).eval() for place, name in enumerate(MINI.nets)}
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "bars", lambda *given: drawn.append(given))
    monkeypatch.setattr(fa.train, "fit", None)
    of: Any = SimpleNamespace(
        settings=replace(MINI, radii=(0.1, 0.25), attack_steps=20, tested=5),
        base=None,
        test=ImageSet(x, y, 2, "line"),
        net=nets.__getitem__,
        folder=tmp_path,
        watch=lambda *given: None,
    )
    found = pipeline.evaluate(of)["nets"]
    for name, net in nets.items():
        margin = (first - net.threshold.detach()) * (2 * y - 1)
        assert found[name]["clean"] == pytest.approx((margin > 0).double().mean().item())
        assert found[name]["tested"] == 5
        for radius in (0.1, 0.25):
            held = (margin[:5] > radius).double().mean().item()
            assert found[name]["robust"][f"PGD L2 {radius}"] == pytest.approx(held)
    ((shown, attack, _, path),) = drawn
    assert (attack, path) == ("PGD L2 0.1", tmp_path / "nets.png")
    assert shown == {name: (net["clean"], net["robust"]["PGD L2 0.1"]) for name, net in found.items()}


def test_the_page_has_each_figure_in_its_column_and_says_what_was_measured_on_what():
    """In ilyas2019.md, checked by hand; the paper's figures are those of its table 1 and figures 2 and 3."""
    nets = {}
    paper = replace(plan.SCALES["paper"], attack_steps=50, push_steps=9)
    for place, name in enumerate(paper.nets):
        clean, *shares = (share - place / 100 for share in (0.9, 0.5, 0.25))
        robust = dict(zip(("PGD L2 0.25", "PGD L2 0.5"), shares, strict=True))
        nets[name] = {"clean": clean, "robust": robust, "tested": 5, "flags": []}
    card = {
        "samples": 7, "kept_label": 0.1, "fooling_rate": 0.9, "objective_before": 3.0, "objective_after": 2.0,
        "distance_mean": 0.25, "distance_max": 0.5,
    }  # fmt: skip
    linear, net = {"D_det": {"true": 0.2, "next": 0.3}}, {"D_det": {"true": 0.4, "next": 0.5}}
    point = {"architecture": "a", "accuracy": 0.1, "transfer": 0.2, "clean": 0.3, "attacked": 4}
    measured = {
        "evaluate": {"nets": nets, "figures": {"all nets": "nets.png"}},
        "sets": dict.fromkeys(paper.sets, card),
        "controls": {
            "fooling": {"D_rand": {"source": {"label": 0.8, "true": 0.1}}},
            "leakage": {"features": 3, "linear": linear, "net": net},
            "early": {"epochs": 2, "early": 0.125, "images": 11, "taught": 0.375},
        },
        "transfer": {"points": [point], "correlation": 0.75, "interval": [0.5, 1.0]},
    }
    result = {
        "config": {
            **paper.as_json(),
            "train": {"samples": 60, "name": "some", "note": ""}, "test": {"samples": 20},
        },
        "measured": {stage: {"seconds": 60.0, **done} for stage, done in measured.items()},
        "machine": {"gpu": None, "cpu": "a processor", "torch": "2.13"}, "date": "today",
    }  # fmt: skip
    assert report.markdown(result) == (Path(__file__).parent / "ilyas2019.md").read_text()
    # read again from results.json, where names are in alphabetical order
    again = json.loads(json.dumps(measured, sort_keys=True))
    assert report.nets(again["evaluate"]) == report.nets(measured["evaluate"])
    assert report.sets(again["sets"]) == report.sets(measured["sets"])
