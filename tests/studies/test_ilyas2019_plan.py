"""What the pipeline is set to do: the paper's figures at the paper's scale, and what reaches training."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.data.construct.paper import CIFAR10_PAPER
from fastadv.studies.ilyas2019 import pipeline, plan
from fastadv.studies.ilyas2019.maker import Maker, file_name
from fastadv.studies.ilyas2019.plan import KINDS, budget
from tests.studies.ilyas import MINI


def test_the_papers_scale_is_the_papers():
    paper = plan.SCALES["paper"]
    assert (paper.data, paper.images, paper.size) == ("cifar10", None, None)
    assert (paper.epochs, paper.batch_size, paper.precision) == (150, 128, "fp32")
    assert (paper.train_radius, paper.train_steps) == (0.5, 7)
    assert paper.radii == (0.25, 0.5)
    assert paper.sets == tuple(name for name, kind in KINDS.items() if not kind.near)
    for name in paper.sets:
        known = CIFAR10_PAPER[name.lower().removesuffix("_noise")]
        spent = budget(name, paper)
        assert (spent["steps"], spent["step_size"]) == (known["steps"], known["step_size"])
        # an inversion without a threat is free in the box
        assert spent.get("threat", fa.L2(torch.inf)).describe() == known["threat"].describe()
    assert paper.architecture.model == "resnet50"
    assert paper.architecture.options == {"normalize": "cifar10"}


@pytest.mark.parametrize(
    ("scale", "rate", "augment"), [("tiny", 0.01, "crop"), ("cpu", 0.01, None), ("paper", 0.01, "crop")]
)
def test_the_table_of_training_reaches_training(scale, rate, augment, tmp_path, monkeypatch):
    asked: dict[str, Any] = {}

    def run(model, images, recipe, **options):
        asked[options["run_dir"].name] = {**options, "recipe": recipe, "images": images, "model": model}

    monkeypatch.setattr(fa.train, "fit", run)
    settings = replace(MINI, augment="crop", epochs=9, training=plan.SCALES[scale].training)
    base, test = pipeline.load(settings)
    maker = Maker(settings, base, test, tmp_path, lambda *given: None)
    made: dict[str, Any] = {name: base.subset([place]) for place, name in enumerate(MINI.sets)}
    maker._sets = made
    files = {file_name(name): one for name, one in made.items()}
    for name in (*MINI.nets, "independent"):
        maker.net(name)
    first = [options["model"].state_dict()["features.0.weight"] for options in asked.values()]
    assert not any(torch.equal(a, b) for place, a in enumerate(first) for b in first[:place])
    for name, options in asked.items():
        assert options["images"] is files.get(name, base)
        assert options["learning_rate"] == (rate if name.startswith("D_rand") else 0.1)
        of = {"D_rand": augment, "D_det": None}
        assert options["augment"] == of.get(name.split(" ")[0].split("_at")[0], "crop")
        # 9 epochs of 60 images are as many steps as 13.5 of 40
        epochs = 14 if name.startswith(("D_R_", "D_NR")) or name == "D_R" else 9
        assert (options["epochs"], options["batch_size"]) == (epochs, 64)
        assert options["optimization"].schedule == "step"
        if name == "adversarial":
            recipe = options["recipe"]
            assert (recipe.threat.norm, recipe.threat.radius, recipe.steps) == ("l2", 0.8, 7)
            assert (recipe.step_size, recipe.random_start) == (pytest.approx(0.16), False)
        else:
            assert isinstance(options["recipe"], fa.train.Standard)
    assert len({options["seed"] for options in asked.values()}) == len(asked) == 11
    assert maker.images("D_NR").x.equal(base.x[:40])
    early = plan.Training(schedule="constant", epochs=2)
    other = maker.taught("early", made["D_R"], early, architecture=plan.Architecture("s", "softmax"))
    assert (asked["early"]["optimization"].schedule, asked["early"]["epochs"]) == ("constant", 2)
    assert asked["early"]["images"] is made["D_R"]
    assert type(other).__name__ == "SoftmaxRegression"
