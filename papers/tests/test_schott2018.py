"""The study of Schott et al. 2018: what it runs on what, what it keeps, its figures; distal adversarials."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.data import batches
from fastadv.errors import InputError
from fastadv.models import Binarized
from papers.schott2018 import figures, paper, report, subjects
from papers.schott2018.distal import distal
from papers.schott2018.plan import METHODS, NORMS, Cell, Settings, published
from papers.schott2018.subjects import NearestNeighbor
from papers.schott2018.work import Done
from papers.tests.schott import FLIP, JOLT, PUSH, FakeSubjects, image_set, linear
from tests.models.abs.nets import tiny

SETTINGS = Settings(samples=8, models=("cnn", "binary_abs", "abs"))
CNN = Settings(samples=8, models=("cnn",))


def study(folder, settings=SETTINGS, resume=False):
    return paper.run(settings, FakeSubjects(), image_set(), folder, resume=resume)["measured"]


@pytest.mark.slow
def test_the_result_holds_every_figure_and_is_read_again_with_resume_alone(attacks, tmp_path, monkeypatch):
    measured = study(tmp_path)
    assert {(c["model"], c["norm"], c["attack"]) for c in measured["cells"]} == {
        *((model, norm, name) for model in SETTINGS.models for norm, name in
          (("l2", "Push"), ("linf", "Flip"), ("l2", "Jolt"))),
        ("abs", "l2", "Latent descent"),
        ("binary_abs", "l2", "Latent descent"),
    }  # fmt: skip
    for cell in measured["cells"]:
        assert cell["seconds"] > 0
    assert {(b["model"], b["norm"]) for b in measured["bounds"]} == {
        (model, norm) for model in ("abs", "binary_abs") for norm in ("l2", "linf")
    } | {("binary_abs", "l0")}
    assert json.loads((tmp_path / "results.json").read_text())["measured"]["least"] == measured["least"]
    for path in measured["figures"].values():
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    assert len(measured["figures"]) == 4
    page = (tmp_path / "report.md").read_text()
    assert "| L2 1.5 | Binary ABS |" in page
    assert "| median, all | accuracy, all | bound |\n| --- | --- | ---: | ---: |" in page
    assert "Push" in page
    assert "(smallest_l2.png)" in page
    with pytest.raises(InputError, match="resume"):
        study(tmp_path)
    attacks.calls = []
    monkeypatch.setattr(figures, "draw", lambda *given: {})
    assert study(tmp_path, resume=True)["least"] == measured["least"]
    assert attacks.calls == []


@pytest.mark.slow
def test_more_images_begin_with_those_done(attacks, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *given: {})
    few = study(tmp_path, replace(CNN, samples=6))
    attacks.calls = []
    more = study(tmp_path, CNN, resume=True)
    assert all(len(ids) == 2 for _, ids in attacks.calls)
    for line, longer in zip(few["least"], more["least"], strict=True):
        assert longer["all"]["distances"][:6] == line["all"]["distances"]
        assert len(longer["all"]["distances"]) == 8


@pytest.mark.parametrize(("name", "length"), [("BIM", 1.25), ("BIM of one radius", 1.0)])
def test_how_far_the_steps_of_bim_lead(name, length):
    model, (x, y, _) = linear(), next(batches(image_set(4), 4))
    threat = fa.L2(torch.tensor([0.01, 0.02, 0.4, 2.0]))
    (method,) = (method for method in METHODS if (method.name, method.norm) == (name, "l2"))
    out = Cell("cnn", method).attack(0, None).keywords["attack"](model, x, y, threat=threat)
    expected, other = (
        fa.attacks.bim(model, x, y, threat, steps=10, step_size=radii * threat.radius / 10, loss="ce")
        for radii in (length, 2.25 - length)
    )
    torch.testing.assert_close(out.x_adv, expected.x_adv)
    assert (out.x_adv != other.x_adv).any()


@pytest.mark.parametrize(
    ("norm", "model", "median", "accuracy"),
    [
        ("l2", "abs", 2.24, 0.799),
        ("linf", "binary_abs", 0.440, 0.77),
        ("l0", "madry", 4.0, 0.0),
    ],
)
def test_the_figures_that_everybody_quotes(norm, model, median, accuracy):
    found = published()[norm, model]
    assert found.median == pytest.approx(median, rel=5e-3)
    assert found.at_threshold == pytest.approx(accuracy, abs=5e-4)


@pytest.mark.slow
def test_the_ramp_trains_run_after_run_and_goes_on(monkeypatch, tmp_path):
    stages = ("ramp1", 0.05, 0.02, 1, "constant"), ("robust", 0.1, 0.04, 2, "cosine")
    monkeypatch.setattr(subjects, "RAMP", stages)
    told, digits = [], fa.data.load("digits", "train", limit=40)
    model = subjects.train_madry(digits, tmp_path, lambda what, done, total: told.append(what))
    assert not model.training
    assert [what.split()[-1] for what in dict.fromkeys(told)] == ["ramp1", "robust"]
    told.clear()
    again = subjects.train_madry(digits, tmp_path, lambda what, done, total: told.append(what))
    assert told == []
    first, last = (
        fa.models.read_weights(tmp_path / name / "model.safetensors")[0] for name in ("ramp1", "robust")
    )
    for name, ours in model.state_dict().items():
        assert torch.equal(ours, again.state_dict()[name])
        assert torch.equal(ours, last[name])
    # the second run started where the first ended: three epochs are too few to forget it
    away = torch.cat([(last[name] - first[name]).flatten() for name in first]).abs().mean()
    assert 0 < away < 0.02


def test_nearest_neighbors_are_those_of_each_class_and_gradients_point_to_them():
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, 1, 5, 5, generator=g), torch.arange(40) % 3
    y[5:9] = 1  # classes of unequal size
    model, z = NearestNeighbor(x, y), torch.rand(7, 1, 5, 5, generator=g)
    distance = (z[:, None] - x).flatten(2).norm(dim=2)
    expected = torch.stack([distance[:, y == k].amin(1) for k in range(3)], 1)
    torch.testing.assert_close(model(z), -expected)
    leaf = (x[:4] + 0.01).requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), torch.ones(4))


def made(*distances, cell, **others):
    """What a cell found in its norm; in other norms nothing near, unless `others` say so."""
    distance = torch.tensor(distances)
    x_adv = distance.nan_to_num(posinf=9.0).view(-1, 1, 1, 1) + torch.zeros(1, 1, 2, 2)
    far = {norm: torch.where(distance > 0, INF, 0.0) for norm in NORMS}
    given = {norm: torch.tensor(values) for norm, values in others.items()}
    return cell, Done({"x_adv": x_adv, **far, cell.method.norm: distance, **given}, 1.0)


INF = math.inf
OUTCOMES = dict(
    [
        made(0.0, 1.0, 3.0, INF, 1.5, cell=Cell("cnn", PUSH)),
        made(0.0, 2.0, 1.0, INF, INF, cell=Cell("cnn", replace(PUSH, name="Shove"))),
        made(0.0, 0.5, 2.0, 4.0, INF, cell=Cell("cnn", JOLT)),
        made(0.0, 0.1, 0.1, 0.1, 0.1, cell=Cell("cnn", FLIP), l2=[0.0, 5.0, 5.0, 3.5, 5.0]),
        made(0.0, 0.1, 0.1, 0.1, 0.1, cell=Cell("abs", PUSH)),
    ]
)


def test_the_smallest_perturbation_of_each_image_is_found_within_model_and_norm():
    ours = report.least(OUTCOMES, "cnn", "l2")
    assert ours.distance.tolist() == [0.0, 0.5, 1.0, 3.5, 1.5]
    assert ours.by == ["", "Jolt", "Shove", "Flip (L∞)", "Push"]
    assert ours.x_adv[:, 0, 0, 0].tolist() == pytest.approx([0.0, 0.5, 1.0, 0.1, 1.5])
    papers = report.least(OUTCOMES, "cnn", "l2", today=False)
    assert papers.distance.tolist() == [0.0, 1.0, 1.0, INF, 1.5]
    assert papers.by == ["", "Push", "Shove", "", "Push"]
    assert papers.x_adv[:, 0, 0, 0].tolist() == [0.0, 1.0, 1.0, 9.0, 1.5]
    assert report.least(OUTCOMES, "cnn", "linf", today=False) is None
    assert report.least(OUTCOMES, "cnn", "l0") is None
    assert report.least(OUTCOMES, "madry", "l2") is None


SMALLEST = report.smallest(OUTCOMES, Settings(models=("cnn", "abs"), norms=("l2", "l0")))


def of_model(model, norm):
    return report.of_model(norm, model, SMALLEST[norm, model])


def test_the_figures_of_a_model():
    found = of_model("cnn", "l2")
    assert found["paper"]["median"] == 1.0
    assert found["paper"]["accuracy"] == pytest.approx(1 / 5)  # at 1.5 exactly an image is broken
    assert found["all"]["median"] == 1.0
    assert found["all"]["distances"] == [0.0, 0.5, 1.0, 3.5, 1.5]
    assert found["paper"]["distances"][3] is None
    assert found["all"]["by"] == {"Jolt": 1, "Shove": 1, "Flip (L∞)": 1, "Push": 1}
    assert list(found["paper"]["by"].items()) == [("Push", 2), ("Shove", 1)]
    assert found["published"] == {"median": pytest.approx(1.0868, abs=1e-4), "accuracy": 0.08}


TARGETS = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def steep():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    net[1].weight.data.normal_(0, 3, generator=torch.Generator().manual_seed(0))
    return net


@pytest.mark.slow
def test_an_explaining_model_wants_the_class():
    explained, targets = tiny(scale=100.0, floor=1e-3), torch.tensor([0, 1, 2])
    start = distal(explained, targets, (1, 8, 8), steps=0)
    assert not start.success.any()
    out = distal(explained, targets, (1, 8, 8), steps=300)
    assert out.success.all()
    chances = explained.confidence(out.x).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(out.confidence, chances, rtol=1e-5, atol=1e-6)
    own = explained.infer(out.x).reconstruction[torch.arange(3), targets]
    assert (own - out.x).square().mean() < (own - start.x).square().mean() / 5
    assert (out.steps > 0).all()


def test_noise_and_result_are_keyed_by_seed_and_id(steep):
    whole = distal(steep, TARGETS, (1, 4, 4), steps=5, step_size=0.1)
    part = distal(steep, TARGETS[2:], (1, 4, 4), steps=5, step_size=0.1, ids=torch.tensor([2, 3]))
    torch.testing.assert_close(part.x, whole.x[2:], rtol=0, atol=1e-6)
    assert not torch.equal(distal(steep, TARGETS, (1, 4, 4), steps=5, step_size=0.1, seed=1).x, whole.x)


def test_steps_by_hand(steep):
    """Momentum, box and step as the definition has them, on the softmax."""
    targets = torch.tensor([2])
    x = distal(steep, targets, (1, 4, 4), steps=0).x
    velocity = torch.zeros_like(x)
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        velocity = 0.5 * velocity + torch.autograd.grad(steep(leaf).log_softmax(1)[0, 2], leaf)[0]
        x = (x + 0.01 * velocity).clamp(0, 1)
    out = distal(steep, targets, (1, 4, 4), steps=3, step_size=0.01, momentum=0.5, confidence=1.0)
    torch.testing.assert_close(out.x, x)
    assert out.steps.tolist() == [3]


class Bright(nn.Module):
    """Class 1 where the mean is 0.6: steps that are too long lead past it, to and fro."""

    def forward(self, x):
        away = (x.flatten(1).mean(1) - 0.6).square()
        return torch.stack([0 * away, -50 * away], 1)


def test_the_most_confident_image_counts():
    ones, options = torch.ones(4, dtype=torch.int64), {"step_size": 0.6, "momentum": 0.5}
    found = [distal(Bright(), ones, (1, 4, 4), steps=steps, **options).confidence for steps in range(8)]
    assert all((more >= few).all() for few, more in pairwise(found))


def test_a_model_that_binarizes_is_shown_what_it_sees():
    torch.manual_seed(0)
    model = Binarized(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), 0.7)
    out = distal(model, TARGETS, (1, 28, 28), step_size=0.5, confidence=0.9)
    assert out.success.all()
    assert set(out.x.unique().tolist()) == {0.0, 1.0}
    shares = model(out.x).softmax(1).gather(1, TARGETS[:, None]).squeeze(1)
    torch.testing.assert_close(out.confidence, shares, rtol=1e-6, atol=1e-6)
