"""The demo: which net and set each part is made with, its sentences, what it prints, keeps and refuses."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.demo import nets, run
from fastadv.demo.nets import TINY, Digits

SAID = {"clean": 0.9, "robust": 0.75, "samples": 40, "lower_bound": 0.234}
ATTACK = "PGD L2 0.4"


def unwatched(what, done, total):
    pass


@pytest.mark.slow
def test_figures_equal_the_library(tmp_path):
    settings = replace(TINY, samples=100, abs_epochs=2, abs_samples=5)
    digits = Digits(settings, tmp_path)
    model, facts = run.synthesis(digits, unwatched)
    part = digits.test.subset(torch.arange(5))
    pgd = partial(fa.attacks.pgd, threat=fa.L2(settings.l2_radius), steps=settings.attack_steps)
    latent = partial(fa.attacks.latent_descent, steps=51, schedule="line_search")
    table = fa.evaluate(model, part, {"pgd": pgd, "latent": latent})
    assert facts["clean"] == fa.evaluate(model, digits.test).clean_accuracy
    assert facts["robust"] == table["pgd"].robust_accuracy
    assert facts["latent_descent"] == pytest.approx(table["latent"].median_distance)
    assert facts["lower_bound"] == pytest.approx(float(model.lower_bound(part.x, part.y).mean()))
    assert facts["samples"] == 5
    assert facts["robust"] != facts["clean"]


@pytest.mark.slow
def test_each_set_comes_from_its_net_and_teaches_a_new_one(tmp_path, monkeypatch):
    seeds, create = [], fa.models.create

    def creating(*args, **options):
        seeds.append(options["seed"])
        return create(*args, **options)

    monkeypatch.setattr(fa.models, "create", creating)
    settings = replace(TINY, train_radius=0.5, push_radius=2.0, invert_step_size=0.3, seed=7)
    digits = Digits(settings, tmp_path)
    digits.test = digits.test.subset(range(10))
    by_name = {net.name: net for net in nets.nets(digits, unwatched)}
    assert list(by_name) == ["standard", "adversarial", "D_R", "D_NR", "D_rand", "D_det"]
    # a net on a constructed set starts from other weights than the nets that the sets were made with
    assert seeds == [7, 7, 8, 8, 8, 8]
    sources = {name: fa.data.load_constructed(tmp_path / "sets" / name) for name in nets.SETS}
    hashes = {name: kept.card["config"]["model"]["hash"] for name, kept in sources.items()}
    assert hashes["D_NR"] == hashes["D_rand"] == hashes["D_det"] != hashes["D_R"]
    for name, construction in zip(
        nets.SETS, ("robust", "non_robust", "random_target", "fixed_shift"), strict=True
    ):
        learned: Any = by_name[name].learned
        config = learned.card["config"]
        assert (config["construction"], config["steps"], config["seed"]) == (construction, 2, 7)
        assert config["threat"]["radius"] == (2.0 if name in ("D_rand", "D_det") else "inf")
        assert torch.equal(sources[name].x, learned.x)
    for name, net in by_name.items():
        recipe = fa.models.read_weights(tmp_path / "nets" / name / "model.safetensors")[1]["config"]["recipe"]
        assert net.learned is digits.base or name in nets.SETS
        assert recipe["name"] == ("PGDTraining" if name == "adversarial" else "Standard")


def test_the_sentences_hold_every_figure_and_say_what_came_out():
    lines = " ".join(run.synthesis_found({**SAID, "latent_descent": 0.857}, "PGD L2 0.4"))
    assert "reads 90.0% of the digits and keeps 75.0% of 40 under PGD L2 0.4" in lines
    assert "at L2 0.86 in the median; lower bounds average 0.23." in lines
    lines = run.synthesis_found({**SAID, "latent_descent": None}, "PGD L2 0.4")
    assert "less than half of its decisions" in lines[1]
    clean = {"standard": 0.9, "D_R": 0.9, "D_NR": 0.8, "D_rand": 0.5, "D_det": 0.3}
    robust = {"standard": 0.1, "D_R": 0.4}

    def sentences():
        figures = {name: {"clean": clean[name], "robust": {ATTACK: robust.get(name, 0.0)}} for name in clean}
        return nets.findings(figures, ATTACK)

    protect, teach = sentences()
    assert protect.startswith("Robust features alone protect: D_R keeps 40.0%")
    assert teach == "Non-robust features alone teach: D_NR 80.0%, D_rand 50.0%, D_det 30.0%; chance 10%."
    robust["D_R"], clean["D_rand"] = 0.1, 0.2
    assert sentences()[0].endswith("did not show here.")
    assert "not all of the paper's effects" in sentences()[1]


def test_one_sample_of_each_class_that_has_a_usable_one():
    y = torch.tensor([1, 0, 2, 1, 0, 2])
    usable = torch.tensor([False, True, False, True, True, False])
    assert run.one_of_each(y, usable).tolist() == [1, 3]
