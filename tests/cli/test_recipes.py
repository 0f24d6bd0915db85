"""From text on the command line to a recipe."""

import pytest

import fastadv as fa
from fastadv import train
from fastadv.cli._recipes import RecipeOptions, parse_recipe
from fastadv.train.recipes import RECIPES


@pytest.mark.parametrize(
    ("text", "options", "kind", "fields"),
    [
        ("standard:label_smoothing=0.1", {}, train.Standard, {"label_smoothing": 0.1}),
        ("pgd", {}, train.PGDTraining, {"steps": 7, "step_size": None}),
        ("pgd:random_start=false", {"steps": 3}, train.PGDTraining, {"steps": 3, "random_start": False}),
        ("trades:beta=3,steps=4", {"step_size": 0.02}, train.TRADES, {"beta": 3, "step_size": 0.02}),
        ("fast:method=n-fgsm", {}, train.FastTraining, {"method": "n-fgsm"}),
        ("free", {}, train.FreeTraining, {"replays": 4}),
        (
            "hidden_fgsm:module=hidden.1,radius=0.2",
            {},
            train.HiddenFGSM,
            {"module": "hidden.1", "radius": 0.2},
        ),
        ("hidden_fgsm:module=3,radius=1", {}, train.HiddenFGSM, {"module": 3, "radius": 1}),
    ],
)
def test_name_and_arguments(text, options, kind, fields):
    recipe = parse_recipe(text, RecipeOptions(radius=0.1, **options))
    assert type(recipe) is kind
    assert {name: getattr(recipe, name) for name in fields} == fields
    if hasattr(recipe, "threat"):
        assert isinstance(recipe.threat, fa.Linf)
        assert recipe.threat.radius == 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_named(name):
    needed = {"hidden_fgsm": ":module=1,radius=0.1"}.get(name, "")
    assert type(parse_recipe(name + needed, RecipeOptions(radius=0.1))) is RECIPES[name]


def test_wrappers_and_norm():
    recipe = parse_recipe("pgd", RecipeOptions(norm="l2", radius=0.5, awp=0.005))
    assert isinstance(recipe, train.AWP)
    assert recipe.gamma == 0.005
    assert isinstance(recipe.recipe.threat, fa.L2)


def test_noise_is_denied_in_the_way_of_the_recipe():
    for text, loss in (("pgd:loss=margin", "ce"), ("fgsm:loss=bce", "bce"), ("trades", "ce")):
        recipe = parse_recipe(text, RecipeOptions(norm="linf", radius=0.1, rubbish=0.5))
        assert isinstance(recipe, train.RubbishTraining)
        assert (recipe.weight, recipe.loss) == (0.5, loss)


@pytest.mark.slow
def test_a_run_with_a_wrapped_recipe(fastadv, folder):
    line = "train -m small_cnn -o width=2 --data digits -n 60 --recipe trades:beta=3,steps=1 --radius 0.1"
    recipe = fastadv(line + " --awp 1/200 --epochs 1 --test-samples 20", "--json").json["config"]["recipe"]
    assert recipe.startswith("AWP(recipe=TRADES(")
    assert "gamma=0.005" in recipe
