"""What the study runs, with which arguments, and how long that takes."""

import inspect
import math

import pytest
import torch

import fastadv as fa
from fastadv.data import batches
from fastadv.errors import InputError
from fastadv.studies.schott2018 import madry, plan
from fastadv.studies.schott2018.plan import Cell, Method, Settings, choose
from tests.studies.schott import FLIP, METHODS, PUSH, image_set, linear


def test_cells_take_the_arguments_of_their_model_and_the_seed(attacks):
    assert Cell("cnn", PUSH).attack(3, None).keywords["share"] == 0.5
    assert Cell("abs", PUSH).attack(3, None).keywords["share"] == 1.0
    assert Cell("abs", PUSH).attack(3, None).keywords["seed"] == 3
    assert "seed" not in Cell("cnn", FLIP).attack(3, None).keywords
    threat = Cell("cnn", FLIP).attack(3, None).keywords["threat"]
    assert (threat.norm, threat.radius) == ("linf", math.inf)


@pytest.mark.parametrize(("name", "length"), [("BIM", 1.25), ("BIM of one radius", 1.0)])
def test_how_far_the_steps_of_bim_lead(name, length):
    model, (x, y, _) = linear(), next(batches(image_set(4), 4))
    threat = fa.L2(torch.tensor([0.01, 0.02, 0.4, 2.0]))
    (method,) = (method for method in choose([name]) if method.norm == "l2")
    out = Cell("cnn", method).attack(0, None).keywords["attack"](model, x, y, threat=threat)
    expected, other = (
        fa.attacks.bim(model, x, y, threat, steps=10, step_size=radii * threat.radius / 10, loss="ce")
        for radii in (length, 2.25 - length)
    )
    torch.testing.assert_close(out.x_adv, expected.x_adv)
    assert (out.x_adv != other.x_adv).any()


def test_no_two_methods_have_one_identity_of_kept_work():
    told = [str(Cell("abs", method).describe()) for method in plan.METHODS if "abs" in method.only]
    assert len(told) == len(set(told))


def test_settings_choose_cells(monkeypatch):
    extra = Method("Dear", "l2", "dear", extra=True)
    monkeypatch.setattr(plan, "METHODS", (*METHODS, extra))
    cells = Settings(models=("cnn", "abs"), norms=("l2",)).cells()
    assert [cell.name for cell in cells] == [
        "cnn l2 Push", "cnn l2 Jolt", "abs l2 Push", "abs l2 Jolt", "abs l2 Latent descent"
    ]  # fmt: skip
    named = Settings(attacks=("push", "FLIP"), models=("cnn",)).cells()
    assert [cell.name for cell in named] == ["cnn l2 Push", "cnn linf Flip"]
    assert choose(None) == METHODS
    assert choose(["dear"]) == (extra,)


@pytest.mark.parametrize(
    ("options", "names"),
    [({"samples": 0}, "samples"), ({"models": ("vgg",)}, "models"), ({"norms": ("l7",)}, "norms"),
     ({"models": ()}, "models"), ({"seed": -1}, "seed"), ({"attacks": ("nonsense",)}, "nonsense")],
)  # fmt: skip
def test_settings_refuse(options, names):
    with pytest.raises(InputError, match=names):
        Settings(**options).cells()


def test_the_plan_covers_the_paper_and_fits_an_hour():
    cells = Settings().cells()
    names = {(cell.method.norm, cell.method.name) for cell in cells if not cell.method.today}
    assert {name for norm, name in names if norm == "l2"} == {
        "Transfer", "Gaussian noise", "Boundary", "Pointwise", "FGM", "DeepFool", "BIM", "BIM of one radius",
        "Latent descent",
    }  # fmt: skip
    assert {name for norm, name in names if norm == "linf"} == {
        "Transfer", "FGSM", "DeepFool", "BIM", "BIM of one radius", "MIM"
    }  # fmt: skip
    assert {name for norm, name in names if norm == "l0"} == {"Salt & pepper", "Pointwise"}
    assert 100 * sum(cell.seconds for cell in cells) + madry.SECONDS < 3600
    assert len({cell.name for cell in cells}) == len(cells)


def test_distances_stand_in_for_logits_with_the_margin_as_loss():
    for cell in Settings().cells():
        if cell.method.attack in ("fgsm", "bim", "mim", "apgd", "ddn") and not cell.transfers:
            like_distances = cell.model in ("nearest_neighbor", "binary_abs", "abs")
            assert (cell.arguments.get("loss") == "margin") == like_distances
        if cell.transfers:
            assert cell.arguments["loss"] == "ce"


def test_arguments_are_those_of_the_attacks_that_exist():
    for cell in Settings().cells():
        run = getattr(fa.attacks, cell.method.attack)
        inspect.signature(run).bind_partial("model", "x", "y", threat="threat", **cell.arguments)
        assert not cell.method.wrap or hasattr(fa.attacks, cell.method.wrap)
