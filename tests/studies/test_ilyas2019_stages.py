"""What the stages of the pipeline measure and tell, against cases whose answers are known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.studies.ilyas2019 import figures, pipeline, plan, report
from fastadv.studies.ilyas2019.sets import KINDS
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
    nets = {name: Line(0.317 + 0.03 * place).eval() for place, name in enumerate(plan.NETS)}
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
    ((shown, attack, path),) = drawn
    assert (attack, path) == ("PGD L2 0.1", tmp_path / "nets.png")
    assert shown == {name: (net["clean"], net["robust"]["PGD L2 0.1"]) for name, net in found.items()}


@pytest.mark.parametrize("scale", plan.SCALES)
def test_architectures_for_transfer_are_different_nets(scale):
    settings = plan.SCALES[scale]
    assert settings.architecture in settings.others
    titles = [one.title for one in settings.others]
    nets = [(one.model, one.options) for one in settings.others]
    assert len(set(titles)) == len(titles)
    assert all(one not in nets[:place] for place, one in enumerate(nets))


def net(clean, first, second):
    return {"clean": clean, "robust": {"PGD L2 0.25": first, "PGD L2 0.5": second}, "tested": 5, "flags": []}


def test_tables_have_each_figure_in_its_column():
    nets = {name: net(0.9 - place / 100, 0.5, 0.25) for place, name in enumerate(plan.NETS)}
    head, *lines = report.nets({"nets": nets})
    assert head == ["trained on", "clean", "paper", "PGD L2 0.25", "paper*", "PGD L2 0.5"]
    robust = ["50.0%", "25.0%"]
    # Table 1 and figure 2 of the paper
    wanted = [
        ("images", "90.0%", "95.25%", "4.49%"),
        ("images under PGD", "89.0%", "90.83%", "82.3%"),
        ("D_R", "88.0%", "84.1%", "48.3%"),
        ("D_R_noise", "87.0%", "-", "-"),
        ("D_NR", "86.0%", "87.7%", "0.8%"),
        ("D_NR_noise", "85.0%", "-", "-"),
        ("D_rand", "84.0%", "63.3%", "~0%"),
        ("D_det", "83.0%", "43.7%", "~0%"),
    ]
    assert lines == [[name, clean, paper, robust[0], at, robust[1]] for name, clean, paper, at in wanted]
    card = {
        "samples": 7, "kept_label": 0.1, "fooling_rate": 0.9, "objective_before": 3.0, "objective_after": 2.0,
        "distance_mean": 0.25, "distance_max": 0.5,
    }  # fmt: skip
    assert report.sets(dict.fromkeys(KINDS, card))[4] == [
        "D_NR_noise", "7", "10.0%", "90.0%", report.number(3.0), report.number(2.0), report.number(0.25)
    ]  # fmt: skip
    controls = {
        "fooling": {"D_rand": {"source": {"label": 0.8, "true": 0.1}}},
        "leakage": {
            "features": 3,
            "linear": {"D_det": {"true": 0.2, "next": 0.3}},
            "net": {"D_det": {"true": 0.4, "next": 0.5}},
        },
    }
    assert report.fooling(controls)[1:] == [["D_rand", "source", "80.0%", "10.0%"]]
    assert report.leakage(controls)[1:] == [
        ["D_det", "linear, 3 robust features", "20.0%", "30.0%"],
        ["D_det", "net", "40.0%", "50.0%"],
    ]
    point = {"architecture": "a", "accuracy": 0.1, "transfer": 0.2, "clean": 0.3, "attacked": 4}
    told = report.transfer({"points": [point]})
    assert told[1] == ["a", "10.0%", "20.0%", "30.0%", "4"]
    # figure 3 of the paper
    assert [line[:3] for line in told[2:]] == [
        ["paper: VGG-16", "27.9%", "65.7%"],
        ["paper: Inception-v3", "39.4%", "82.8%"],
        ["paper: ResNet-18", "40.9%", "92.1%"],
        ["paper: DenseNet", "41.7%", "92.7%"],
        ["paper: ResNet-50", "44.7%", "98.7%"],
    ]


def test_notes_name_what_was_measured_on_what():
    nets = {name: net(0.9, 0.5, 0.25) for name in plan.NETS}
    early = {"epochs": 2, "early": 0.125, "images": 11, "taught": 0.375}
    config = {
        **plan.choose("paper", attack_steps=50, push_steps=9).as_json(),
        "train": {"samples": 60, "name": "some", "note": ""},
        "test": {"samples": 20},
    }
    measured = {"evaluate": {"nets": nets}, "controls": {"leakage": {"features": 1}, "early": early}}
    text = "\n".join(report.notes({"config": config, "measured": measured}))
    for part in (
        "60 training images of some",
        "clean: all 20 test images; PGD: 50 steps of 0.05 radii, one random start, the first 5",
        "after 2 epoch(s) (12.5% on test images) mislabels 11 training images",
        "reads 37.5% of the test images",
        "push steps: 9 instead of 100",
        "attack steps: 50 instead of 100",
    ):
        assert part in text


def test_bars_stand_beside_the_papers(tmp_path, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(fa.figures, "bars", lambda nets, path, **texts: asked.append((nets, texts)))
    figures.bars({"D_R": (0.75, 0.5)}, "PGD L2 0.2", tmp_path / "a.png")
    ((nets, texts),) = asked
    assert nets == {"D_R": {"clean": 0.75, "PGD L2 0.2": 0.5}}
    assert texts["reference"]["D_R"] == {"clean": 0.841, "PGD L2 0.2": 0.483}
