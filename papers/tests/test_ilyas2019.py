"""The theorems, the networks, features and theory as runs, and the page of the pipeline."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fastadv._torchvision import models as torchvision_models
from papers.ilyas2019 import features, gaussian, nets, plan, report, theory
from papers.ilyas2019.theory import train
from tests.models.test_published_networks import moved


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


def covariance(size, seed):
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn @ drawn.T + 0.3 * torch.eye(size, dtype=torch.float64)


def test_a_whitened_sample_has_exactly_these_moments():
    wanted = covariance(4, 0)
    drawn = gaussian.whitened(wanted, 50, seed=3)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(drawn.T @ drawn / 50, wanted)
    assert not torch.equal(drawn, gaussian.whitened(wanted, 50, seed=4))


@pytest.mark.slow
def test_the_robust_covariance_is_where_the_loss_is_flat():
    """In each eigendirection (C s - 1)^2 = C^2 s s*, from the derivative of C s* / (C s - 1) + log s."""
    true, penalty = covariance(4, 1), 0.7
    learned = gaussian.robust_covariance(true, penalty)
    gap = penalty * learned - torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(gap @ gap, penalty**2 * true @ learned)
    assert float(torch.linalg.eigvalsh(gap)[0]) > 0
    mean = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    found_mean, found = gaussian.learned_under(mean + gaussian.whitened(true, 40, 1), penalty)
    torch.testing.assert_close(found, learned, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_mean, mean, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("radius", [0.2, 3.0])
def test_the_worst_point_of_a_ball_is_found_by_trying(radius):
    each, v = covariance(2, 2), torch.tensor([[0.3, -1.0], [4.0, 0.2], [-0.01, 0.02]]).double()
    around = torch.linspace(0, 2 * math.pi, 50_001, dtype=torch.float64)
    circle = radius * torch.stack([around.cos(), around.sin()], 1)
    points = v[:, None] + circle
    losses = (points * torch.linalg.solve(each, points.transpose(1, 2)).transpose(1, 2)).sum(2)
    delta = gaussian.worst(v, each, radius)
    torch.testing.assert_close(delta.norm(dim=1), torch.full((3,), radius, dtype=torch.float64))
    found = v + delta
    loss = (found * torch.linalg.solve(each, found.T).T).sum(1)
    torch.testing.assert_close(loss, losses.amax(1), rtol=1e-6, atol=0)
    assert not gaussian.worst(v, each, 0.0).any()


@pytest.mark.slow
def test_adversarial_training_learns_the_robust_solution():
    true, mean = torch.tensor([[4.0, 1.0], [1.0, 0.8]]).double(), torch.tensor([1.5, 0.5]).double()
    signed = mean + gaussian.whitened(true, 200)
    model = train(signed, 1.0, epochs=80, steps=8)
    for found, expected in zip(model.learned(), gaussian.fit_in_ball(signed, 1.0), strict=True):
        assert gaussian.apart(found, expected) < 0.02
    assert gaussian.apart(model.learned()[1], true) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "arguments", "count"),
    [
        # torchvision's without their three linear layers, and with one of 512 x 10
        (nets.VGG, {"depth": 11}, 132_868_840 - 123_642_856 + 5_130),
        # 15.3 M in Huang et al. 2017, table 2
        (nets.DenseNet, {"depth": 250, "growth": 24}, 15_324_406),
        # Zhang et al. 2017, table 1, and the scales of BatchNorm, one for each of 1,712 channels
        (nets.Inception, {}, 1_649_402 + 1_712),
    ],
)
def test_they_have_the_published_numbers_of_parameters(make, arguments, count):
    with torch.device("meta"):
        model = make(**arguments)
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(("depth", "growth"), [(10, 4), (22, 12)])
def test_densenet_is_torchvisions_but_for_the_stem(depth, growth):
    model = moved(nets.DenseNet(depth=depth, growth=growth))
    other = torchvision_models.DenseNet(growth, ((depth - 4) // 6,) * 3, 2 * growth, num_classes=10)
    other.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    other.features.norm0 = other.features.relu0 = other.features.pool0 = nn.Identity()
    weights = model.state_dict().values()
    other.load_state_dict(dict(zip(other.state_dict(), weights, strict=True)))
    x = torch.rand(2, 3, 20, 12, dtype=torch.float64)
    torch.testing.assert_close(model(x), other.double().eval()(x))


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
        "measured": {**measured, "seconds": {"sets: D_rand": 1061.0, "controls": 61.0}, "left": ["transfer"]},
        "machine": {"gpu": None, "cpu": "a processor", "torch": "2.13"}, "date": "today",
    }  # fmt: skip
    assert report.markdown(result) == (Path(__file__).parent / "ilyas2019.md").read_text()
    # read again from results.json, where names are in alphabetical order
    again = json.loads(json.dumps(measured, sort_keys=True))
    assert report.nets(again["evaluate"]) == report.nets(measured["evaluate"])
    assert report.sets(again["sets"]) == report.sets(measured["sets"])
