"""From text on the command line to a recipe."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import fastadv as fa
from fastadv.cli._recipes import RecipeOptions, parse_recipe
from fastadv.train import (
    AWP,
    MART,
    TRADES,
    FastTraining,
    FGSMTraining,
    FreeTraining,
    HiddenFGSM,
    InputNoise,
    PGDTraining,
    PriorGuidedTraining,
    RobustLogistic,
    RubbishTraining,
    Standard,
    WeightDecayL1,
)
from fastadv.train.recipes import RECIPES

LINF = {"radius": 0.1}


@pytest.mark.parametrize(
    ("text", "options", "kind", "fields"),
    [
        ("standard", {}, Standard, {}),
        ("standard:label_smoothing=0.1", LINF, Standard, {"label_smoothing": 0.1}),
        ("fgsm:weight=0.2", LINF, FGSMTraining, {"weight": 0.2}),
        ("pgd", LINF, PGDTraining, {"steps": 7, "step_size": None}),
        (
            "pgd:random_start=false,loss=margin",
            LINF | {"steps": 3},
            PGDTraining,
            {"steps": 3, "loss": "margin"},
        ),
        ("trades:beta=3,steps=4", LINF | {"step_size": 0.02}, TRADES, {"beta": 3, "step_size": 0.02}),
        ("mart", LINF, MART, {"steps": 7, "beta": 5.0}),
        ("fast:method=n-fgsm", LINF, FastTraining, {"method": "n-fgsm"}),
        ("prior_guided:reset=5", LINF, PriorGuidedTraining, {"reset": 5}),
        ("free", LINF, FreeTraining, {"replays": 4}),
        ("noise:kind=uniform", LINF, InputNoise, {"kind": "uniform"}),
        ("hidden_fgsm:module=hidden.1,radius=0.2", {}, HiddenFGSM, {"module": "hidden.1", "radius": 0.2}),
        ("hidden_fgsm:module=3,radius=1", {}, HiddenFGSM, {"module": 3, "radius": 1}),
        ("robust_logistic:weight=0.5", LINF, RobustLogistic, {"weight": 0.5}),
    ],
)
def test_name_and_arguments(text, options, kind, fields):
    recipe = parse_recipe(text, RecipeOptions(**options))
    assert type(recipe) is kind
    assert {name: getattr(recipe, name) for name in fields} == fields
    if hasattr(recipe, "threat"):
        assert isinstance(recipe.threat, fa.Linf)
        assert recipe.threat.radius == 0.1


def test_wrappers_and_norm():
    recipe = parse_recipe("pgd", RecipeOptions(norm="l2", radius=0.5, l1=0.001, awp=0.005))
    assert isinstance(recipe, AWP)
    assert recipe.gamma == 0.005
    assert isinstance(recipe.recipe, WeightDecayL1)
    assert recipe.recipe.coefficient == 0.001
    assert isinstance(recipe.recipe.recipe.threat, fa.L2)


def test_noise_is_denied_in_the_way_of_the_recipe():
    for text, loss in (("pgd:loss=margin", "ce"), ("fgsm:loss=bce", "bce"), ("trades", "ce")):
        recipe = parse_recipe(text, RecipeOptions(norm="linf", radius=0.1, l1=0.001, rubbish=0.5))
        assert isinstance(recipe, WeightDecayL1)
        assert isinstance(recipe.recipe, RubbishTraining)
        assert (recipe.recipe.weight, recipe.recipe.loss) == (0.5, loss)


@pytest.mark.slow
def test_a_run_with_a_wrapped_recipe(fastadv: Callable, folder: Path) -> None:
    line = "train -m small_cnn -o width=2 --data digits -n 60 --recipe trades:beta=3,steps=1 --radius 0.1"
    done = fastadv(line + " --awp 1/200 --epochs 1 --test-samples 20", "--json")
    assert done.code == 0, done
    recipe = json.loads(done.out)["config"]["recipe"]
    assert recipe.startswith("AWP(recipe=TRADES(")
    assert "gamma=0.005" in recipe


def test_the_readme_names_every_recipe():
    lines = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    for name, kind in RECIPES.items():
        assert any(line.startswith(f"| `{kind.__name__}` | `{name}` |") for line in lines), name
