"""The study of Goodfellow et al.: what its networks are, what it measures, and where its work lies."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.studies.goodfellow2014 import SCALES, measure, moves, paper, tables
from fastadv.studies.goodfellow2014.measure import Answers, Bench, answers, craft, craft_rounded
from fastadv.studies.goodfellow2014.nets import Beginning, Nets
from fastadv.studies.study import unwatched
from fastadv.train.schedules import SCHEDULES

TINY = replace(SCALES["tiny"], tested=40, l1=(0.0025,))


def digits(split, count):
    made = fa.data.load("digits", split, limit=count)
    assert isinstance(made, ImageSet)
    return made


@pytest.mark.parametrize("name", ["softmax", "rbf"])
def test_crafted_is_the_sign_of_the_gradient_of_the_networks_own_loss(name):
    model = fa.models.create(name, shape=(1, 8, 8), seed=3).eval()
    images = digits("test", 30)
    x, y = images.x, images.y
    loss = "bce" if name == "rbf" else "ce"
    crafted = craft(model, x, y, TINY.threat, loss)
    leaf = x.double().requires_grad_()
    model.double()
    if name == "rbf":
        right = one_hot(y, 10).double()
        value = binary_cross_entropy_with_logits(model(leaf), right, reduction="sum")
    else:
        value = cross_entropy(model(leaf), y, reduction="sum")
    (gradient,) = torch.autograd.grad(value, leaf)
    clear = gradient.abs() > 1e-9
    assert clear.double().mean() > 0.9
    expected = x + TINY.radius * gradient.sign()
    torch.testing.assert_close(crafted.double()[clear], expected[clear], atol=1e-6, rtol=0)
    assert ((crafted < 0) | (crafted > 1)).any()
    boxed = craft(model.float(), x, y, TINY.boxed, loss)
    torch.testing.assert_close(boxed, crafted.clamp(0, 1))


def test_a_rounded_gradient_points_elsewhere_where_the_network_is_sure():
    images = digits("test", 30)
    model = fa.models.create("softmax", shape=(1, 8, 8), seed=3).eval()
    calm = craft(model, images.x, images.y, TINY.threat)
    torch.testing.assert_close(craft_rounded(model, images.x, images.y, TINY.threat), calm)
    y = model(images.x).argmax(1)
    with torch.no_grad():
        model.linear.weight.mul_(100)
        model.linear.bias.mul_(100)
    sure = craft(model, images.x, y, TINY.threat)
    rounded = craft_rounded(model, images.x, y, TINY.threat)
    exact = craft_rounded(model.double(), images.x.double(), y, TINY.threat).float()
    left = 1 - model(images.x.double()).softmax(1).amax(1)
    clear = left > 1e-12  # where float64 rounds little
    assert clear.sum() > 5
    torch.testing.assert_close(sure[clear], exact[clear])
    lost = clear & (left < 1e-7)
    assert lost.any()
    assert (rounded != sure).flatten(1).any(1)[lost].all()


class Told(nn.Module):
    """Probabilities of its own, which do not sum to 1."""

    def forward(self, x):
        return x.flatten(1)

    def confidence(self, x):
        return self(x).sigmoid()


def test_answers_are_counted_by_hand():
    x = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-3.0, -2.0, -4.0]])
    found = answers(Told(), x, torch.tensor([0, 0, 2]))
    assert found.classes.tolist() == [0, 1, 1]
    assert found.error == pytest.approx(2 / 3)
    sure = [float(torch.tensor(logit).sigmoid()) for logit in (2.0, 1.0, -2.0)]
    assert found.mean_confidence == pytest.approx(sum(sure) / 3)
    assert found.confidence_on_mistakes == pytest.approx((sure[1] + sure[2]) / 2)
    assert answers(nn.Flatten(), x, torch.tensor([0, 1, 1])).confidence_on_mistakes is None


def test_classes_are_those_of_the_logits_where_all_probabilities_are_0():
    model = fa.models.create("rbf", shape=(1, 8, 8), seed=3).eval()
    with torch.no_grad():
        model.templates[:] = torch.arange(10.0, 110.0, 10)[:, None]
        model.scales.fill_(1.0)
    x = torch.full((2, 1, 8, 8), 109.0)
    found = answers(model, x, torch.tensor([9, 0]))
    assert found.classes.tolist() == [9, 9]
    x = torch.full((1, 1, 8, 8), 200.0)
    assert answers(model, x, torch.tensor([9])).error == 0
    assert answers(model, x, torch.tensor([9])).mean_confidence == 0


def test_agreement_is_counted_among_the_mistakes():
    y = torch.tensor([0, 0, 0, 0, 0])
    said = {
        "maxout": torch.tensor([1, 2, 1, 0, 2]),
        "softmax": torch.tensor([1, 0, 2, 1, 2]),
        "rbf": torch.tensor([0, 2, 1, 1, 0]),
    }
    bench = SimpleNamespace(
        crafted=lambda name: torch.zeros(5),
        answers=lambda name, x: Answers(said[name], torch.ones(5), said[name] != y),
    )
    shares = [line.share for line in tables.agreement(bench)]
    # wrong: maxout 0 1 2 4, softmax 0 2 3 4, rbf 1 2 3
    assert shares == pytest.approx([2 / 4, 2 / 4, 2 / 3, 2 / 2, 1 / 2])
    right = Answers(torch.tensor([0]), torch.ones(1), torch.tensor([False]))
    bench = SimpleNamespace(crafted=lambda name: torch.zeros(1), answers=lambda name, x: right)
    assert [line.share for line in tables.agreement(bench)] == [None] * 5  # there is nothing to count


def test_how_many_images_pgd_saw_is_said(monkeypatch):
    """And that it ran within the box, on the first of them."""
    test_set, seen = digits("test", 30), []
    monkeypatch.setattr(measure, "STRONGLY_TESTED", 20)
    model, pgd = fa.models.create("softmax", shape=(1, 8, 8), seed=3), fa.attacks.pgd

    class Made(dict[str, nn.Module]):
        plans, device, settings = {"adversarial": None}, None, replace(TINY, tested=None)

        def __missing__(self, name):
            return model

    bench = Bench(Made(), test_set, Path("."))  # type: ignore[arg-type]

    def watched(model, x, y, threat, **options):
        seen.append((x, threat, options["steps"]))
        return pgd(model, x, y, threat, **options)

    monkeypatch.setattr(fa.attacks, "pgd", watched)
    line = list(tables.adversarial(bench))[-1]
    assert line.what == "adversarial, PGD-40 within the box, first 20 images"
    assert torch.equal(torch.cat([x for x, _, _ in seen]), test_set.x[:20])
    assert {(threat.radius, threat.box, steps) for _, threat, steps in seen} == {(0.25, (0.0, 1.0), 40)}
    out = pgd(model, test_set.x[:20], test_set.y[:20], fa.Linf(0.25), steps=40)
    assert line.share == pytest.approx(float(out.success.double().mean()))


def test_a_schedule_that_is_left_early_is_the_same_until_then():
    part = Beginning("cosine", 0.25)
    assert [part(done) for done in (0.0, 0.4, 1.0)] == [
        SCHEDULES["cosine"](done) for done in (0.0, 0.1, 0.25)
    ]


@pytest.mark.slow
def test_a_large_network_stops_by_held_out_images_and_is_trained_again_on_all(tmp_path, monkeypatch):
    runs: list[tuple[ImageSet, dict[str, Any]]] = []
    fit = fa.train.fit

    def fitting(model, images, recipe, **options):
        runs.append((images, options))
        return fit(model, images, recipe, **options)

    monkeypatch.setattr(fa.train, "fit", fitting)
    settings, train_set = replace(TINY, large_epochs=3, members=3, seeds=2), digits("train", 200)
    nets = Nets(settings, train_set, tmp_path, unwatched, None)
    model = nets["large_adversarial"]
    assert not model.training
    searched, past = (
        fa.train.reports(tmp_path / name) for name in ("large_adversarial-search", "large_adversarial")
    )
    chosen = max(searched, key=lambda report: report.lowest)
    assert chosen.validation_robust_accuracy
    assert len(past) == chosen.epoch
    (part, search), (whole, last) = runs
    assert torch.equal(part.x, train_set.x[:140])
    assert torch.equal(search["measuring"].validation_set.x, train_set.x[140:])
    assert (search["epochs"], search["ending"].patience) == (3, 1)
    assert repr(search["test_attacks"]["FGSM"].keywords["threat"]) == repr(settings.threat)
    assert whole is train_set
    assert search["optimization"].schedule == "cosine"
    assert last["optimization"].schedule == Beginning("cosine", chosen.epoch / 3)
    assert nets.told()["large_adversarial"] == {
        "epochs": chosen.epoch,
        "seconds": sum(report.seconds for report in [*past, *searched]),
        "stopped": f"least adversarial error on held-out images: {1 - chosen.lowest:.1%}",
    }
    again = Nets(settings, train_set, tmp_path, unwatched, None)["large_adversarial"]
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    members = list(nets["ensemble"].members)
    assert members == [nets[name] for name in ("maxout", "member-1", "member-2")]
    assert "ensemble" not in nets.told()
    nets["large_adversarial-1"]
    seeds = {options["run_dir"].name: options["seed"] for _, options in runs}
    assert seeds["large_adversarial"] == seeds["large_adversarial-search"] == seeds["maxout"]
    assert seeds["large_adversarial-1"] == seeds["member-1"] != seeds["maxout"]


@pytest.mark.slow
def test_parts_of_the_tiny_study_add_up(tmp_path):
    sets = digits("train", 100), digits("test", 40)
    first = paper.run(TINY, *sets, tmp_path, parts=("fgsm",))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("nets/*/model.safetensors")}
    assert {path.parent.name for path in kept} == {"softmax", "maxout", "rbf", "quadratic"}
    whole = paper.run(TINY, *sets, tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    lines = whole["measured"]["lines"]
    assert lines[: len(first["measured"]["lines"])] == first["measured"]["lines"]
    assert {line["part"] for line in lines} == set(paper.PARTS)
    assert all(0 <= line["share"] <= 1 for line in lines)
    assert set(whole["measured"]["nets"]) >= {"large_adversarial", "member-1", "noise_sign", "l1_0.0025"}
    details = whole["measured"]["details"]
    drawn = {
        line["what"]: (line["share"], line["paper"])
        for line in lines
        if line["part"] in ("logistic", "rubbish")
    }
    for name, net in details["logistic"]["nets"].items():
        last, printed = net["rows"][-1], (0.016, 0.99) if name == "plain" else (None, None)
        assert drawn[f"{name}, clean"] == (last["clean"], (printed[0], None))
        assert drawn[f"{name}, FGSM"] == (last["fgsm"], (printed[1], None))
    paper_says = {"maxout": 0.9835, "sigmoids": 0.68, "softmax": 0.598, "rbf": 0.0, "rubbish": 0.0}
    for name, printed in paper_says.items():
        assert drawn[name][0] == details["rubbish"][name]["error"]
        assert drawn[name][1][0] == printed
    assert details["rubbish"]["softmax, led"]["mean"] == drawn["softmax, led to a class by a step of 0.25"][0]
    others = {line["what"]: line for line in lines if line["part"] == "directions"}
    assert others["the step of another image"]["share"] == details["directions"]["reuse"]["error"]
    assert others["the step of another image"]["paper"] == (0.462, None)
    turned = [others[f"turned by {d} degrees towards the gradient"]["share"] for d in (5, 10, 15, 20)]
    assert turned == details["directions"]["rotation"]["error"]
    assert details["directions"]["trace"]["label"] == 4
    assert len(whole["measured"]["figures"]) == 4
    for path in whole["measured"]["figures"].values():
        assert Path(path).stat().st_size > 10_000
    page = (tmp_path / "report.md").read_text()
    assert page == paper.markdown(json.loads((tmp_path / "results.json").read_text()))
    assert "| 99.90% |" in page  # what the paper printed
    with pytest.raises(InputError, match="got one with another seed"):
        paper.run(replace(TINY, seed=1), *sets, tmp_path, parts=("fgsm",))


def test_what_cannot_work_is_refused(tmp_path):
    sets = digits("train", 50), digits("test", 10)
    with pytest.raises(InputError, match=r"parts: expected some of fgsm.*got 'fgms'"):
        paper.run(TINY, *sets, tmp_path, parts=("fgms",))
    with pytest.raises(InputError, match="validation: expected fewer than the 50 training images, got 60"):
        paper.run(TINY, *sets, tmp_path)
    with pytest.raises(InputError, match="radius: expected a number > 0"):
        replace(TINY, radius=0.0)
    bench = SimpleNamespace(nets={"maxout": None}, settings=TINY, y=torch.tensor([3, 5]))
    with pytest.raises(InputError, match="tested: expected a test image of class 4, got none"):
        list(moves.directions(bench))
