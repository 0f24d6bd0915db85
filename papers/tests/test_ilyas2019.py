"""Which net and which set each part is made with, the figures beside the paper's, and the sentences."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.data.construct._base import weights_or_code
from fastadv.models.weights import read_weights
from papers.ilyas2019 import digits as ilyas2019
from papers.study import TINY, Study, one_of_each

ATTACK = "PGD L2 0.4"


@pytest.fixture
def study(tmp_path):
    return Study(replace(TINY, train_radius=0.5, push_radius=2.0, invert_step_size=0.3, seed=7), tmp_path)


def unwatched(what, done, total):
    pass


@pytest.mark.slow
def test_each_set_comes_from_its_net_and_teaches_a_new_one(study, monkeypatch):
    seeds, create = [], fa.models.create

    def creating(*given, **options):
        seeds.append(options["seed"])
        return create(*given, **options)

    monkeypatch.setattr(fa.models, "create", creating)
    study.test = study.test.subset(range(10))
    nets = {net.name: net for net in ilyas2019.nets(study, unwatched)}
    assert list(nets) == ["standard", "adversarial", "D_R", "D_NR", "D_rand", "D_det"]
    # a net on a constructed set starts from other weights than the nets that the sets were made with
    assert seeds == [7, 7, 8, 8, 8, 8]
    for name, source, construction in (
        ("D_R", "adversarial", "robust"),
        ("D_NR", "standard", "non_robust"),
        ("D_rand", "standard", "random_target"),
        ("D_det", "standard", "fixed_shift"),
    ):
        made: Any = nets[name].learned
        config = made.card["config"]
        assert config["construction"] == construction
        assert config["model"]["hash"] == weights_or_code(nets[source].model)["hash"]
        assert (config["steps"], config["seed"]) == (2, 7)
        pushed = name in ("D_rand", "D_det")
        assert config["step_size"] == pytest.approx(0.2 if pushed else 0.3)
        assert (config["threat"]["norm"], config["threat"]["radius"]) == ("l2", 2.0 if pushed else "inf")
        kept = fa.data.load_constructed(study.folder / "sets" / name)
        assert torch.equal(kept.x, made.x)
    for name, net in nets.items():
        recipe = read_weights(study.folder / "nets" / name / "model.safetensors")[1]["config"]["recipe"]
        assert net.learned is study.base or name in ilyas2019.SETS
        if name == "adversarial":
            assert recipe["name"] == "PGDTraining"
            assert (recipe["threat"]["norm"], recipe["threat"]["radius"]) == ("l2", 0.5)
            assert (recipe["steps"], recipe["step_size"]) == (study.settings.train_steps, 0.1)
        else:
            assert recipe["name"] == "Standard"


def test_the_sentences_say_what_came_out():
    clean = {"standard": 0.9, "D_R": 0.9, "D_NR": 0.8, "D_rand": 0.5, "D_det": 0.3}
    robust = {"standard": 0.1, "D_R": 0.4}

    def told():
        nets = {name: {"clean": clean[name], "robust": {ATTACK: robust.get(name, 0.0)}} for name in clean}
        return ilyas2019.findings(nets, ATTACK)

    protect, teach = told()
    assert protect.startswith("Robust features alone protect: D_R keeps 40.0%")
    assert teach == "Non-robust features alone teach: D_NR 80.0%, D_rand 50.0%, D_det 30.0%; chance 10%."
    for share in (0.1, 0.05):
        robust["D_R"] = share
        assert told()[0].endswith("did not show here.")
    for name in ("D_NR", "D_rand", "D_det"):
        kept, clean[name] = clean[name], 0.2
        assert "not all of the paper's effects" in told()[1]
        clean[name] = kept


def test_one_sample_of_each_class_that_has_a_usable_one():
    y = torch.tensor([1, 0, 2, 1, 0, 2])
    usable = torch.tensor([False, True, False, True, True, False])
    assert one_of_each(y, usable).tolist() == [1, 3]
