"""The recipes side by side, in miniature: what is trained, kept, judged and told."""

import json
from dataclasses import replace
from typing import Any

import pytest

import fastadv as fa
from fastadv.cli import _study_recipes, main
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.studies import recipes

TINY = recipes.Settings(epochs=2, ramp=1, batch_size=16, tested=4, judged=2, version="quick")


def digits(split, count):
    data = fa.data.load("digits", split, limit=count)
    assert isinstance(data, ImageSet)
    return data


@pytest.mark.slow
def test_every_recipe_is_trained_and_judged_by_the_settings(tmp_path, monkeypatch):
    trained: list[dict[str, Any]] = []
    judged: list[Any] = []
    fit, evaluate, reports, seen = fa.train.fit, fa.evaluate, fa.train.reports, list[str]()

    def fitting(*given, **options):
        trained.append(options)
        return fit(*given, **options)

    def told(report, under_pgd):
        return replace(report, robust_accuracy={"PGD-20": under_pgd})

    def judging(model, test_set, attacks, **options):
        given = attacks["AutoAttack"].keywords
        judged.append((given["threat"].radius, given["version"], given["seed"], options["limit"]))
        return evaluate(model, test_set, attacks, **options)

    monkeypatch.setattr(fa.train, "fit", fitting)
    monkeypatch.setattr(fa, "evaluate", judging)
    monkeypatch.setattr(fa.train, "reports", lambda folder: [*map(told, reports(folder), (0.5, 0.4))])
    settings = replace(TINY, learning_rate=0.003, seed=5)
    sets = digits("train", 16), digits("test", 8)
    result = recipes.run(settings, *sets, tmp_path, lambda what, *rest: seen.append(what))
    assert judged == [(0.3, "quick", 5, 2)] * len(recipes.RECIPES["mnist"])
    wanted = {"batch_size": 16, "learning_rate": 0.003, "seed": 5}
    for name, options in zip(recipes.RECIPES["mnist"], trained, strict=True):
        assert {key: options[key] for key in wanted} == wanted
        assert options["measuring"].test_limit == 4
        assert options["epochs"] == (1 if name == "free" else 2)
        assert options["optimization"].ramp == (None if name in ("standard", "free") else fa.train.Ramp(1))
    lines = result["measured"]["lines"]
    assert [line["recipe"] for line in lines] == list(recipes.RECIPES["mnist"])
    for line in lines:
        assert line["judged"] == 2
        assert 0 <= line["autoattack"] <= line["clean"] <= 1
        # of the last epoch, of the best; free has one
        assert (line["pgd"], line["best_pgd"]) == (0.5 if line["recipe"] == "free" else 0.4, 0.5)
    assert json.loads((tmp_path / "results.json").read_text())["measured"] == result["measured"]
    page = (tmp_path / "report.md").read_text()
    assert all(f"| {name} |" in page for name in recipes.RECIPES["mnist"])
    assert {f"training {name}" for name in recipes.RECIPES["mnist"]} <= set(seen)


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    data = digits("train", 16), digits("test", 8)
    first = recipes.run(replace(TINY, recipes=("pgd",)), *data, tmp_path)
    steps: list[str] = []
    both = recipes.run(
        replace(TINY, recipes=("pgd", "fgsm")), *data, tmp_path, lambda what, *rest: steps.append(what)
    )
    assert both["measured"]["lines"][0] == first["measured"]["lines"][0]
    assert "training pgd" not in steps
    assert "training fgsm" in steps
    for weights in tmp_path.glob("*/*.safetensors"):
        weights.unlink()
    assert recipes.run(replace(TINY, recipes=("pgd",)), *data, tmp_path)["measured"] == first["measured"]
    with pytest.raises(InputError, match=r"another radius \(0.3 there, 0.1 here\)"):
        recipes.run(replace(TINY, recipes=("pgd",), radius=0.1), *data, tmp_path)


def test_recipes_are_what_their_names_say():
    made = {name: make(recipes.Settings()) for name, make in recipes.RECIPES["mnist"].items()}
    for name, recipe in made.items():
        inner: Any = recipe.recipe if name.endswith("+awp") else recipe
        assert name.endswith("+awp") == isinstance(recipe, fa.train.AWP)
        if name != "standard":
            assert (inner.threat.norm, inner.threat.radius) == ("linf", 0.3)
    assert made["fgsm-rs"].method == "rs"
    assert made["n-fgsm"].method == "n-fgsm"
    assert made["pgd"].step_size == pytest.approx(0.1)
    assert made["trades"].steps == 7


def test_free_training_gets_its_epochs_divided_by_the_replays():
    free, pgd = (recipes.Settings((name,)).recipe() for name in ("free", "pgd"))
    assert recipes.lengths(recipes.Settings(epochs=10, ramp=2), free) == (3, 1)
    assert recipes.lengths(recipes.Settings(epochs=10, ramp=2), pgd) == (10, 2)
    assert recipes.lengths(recipes.Settings(epochs=2, ramp=1), free) == (1, None)
    assert recipes.lengths(recipes.Settings(epochs=10, ramp=2), fa.train.Standard()) == (10, None)


def test_alarms_stand_in_the_table():
    line = {
        "recipe": "fgsm", "seed": 0, "clean": 0.99, "pgd": 0.0, "best_pgd": 0.5, "autoattack": 0.0,
        "seconds": 3.2, "best_autoattack": 0.25,
        "alarms": [{"epoch": 4, "text": "catastrophic overfitting: accuracy fell"}],
    }  # fmt: skip
    cells = recipes.table({"measured": {"lines": [line]}})
    assert cells[1] == [
        "fgsm", "99.0%", "0.0%", "50.0%", "0.0%", "25.0%", "3", "epoch 4: catastrophic overfitting"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_command_makes_the_table(tmp_path, monkeypatch, capsys):
    asked: list[Any] = []

    def load(name, split, data_dir, limit=None):
        asked.append((name, split, limit))
        return digits(split, limit or 12)

    monkeypatch.setattr(_study_recipes, "load_data", load)
    command = (
        f"study recipes --recipes standard,fgsm --epochs 2 --ramp 1 -n 2 --limit 16 --run-dir {tmp_path}/a"
    )
    assert main(command.split()) == 0
    assert asked == [("mnist", "train", 16), ("mnist", "test", None)]
    out = capsys.readouterr().out
    assert "AutoAttack" in out
    assert "fgsm" in out
    assert "report.md" in out
    assert main([*command.split(), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [line["recipe"] for line in told["measured"]["lines"]] == ["standard", "fgsm"]
    assert told["measured"]["lines"][0]["judged"] == 2


def test_every_option_of_the_command_reaches_the_study(tmp_path, monkeypatch):
    asked: list[recipes.Settings] = []

    def run(settings, *rest, **options):
        asked.append(settings)
        raise InputError("enough")

    monkeypatch.setattr(_study_recipes, "load_data", lambda name, split, *rest, **more: digits(split, 12))
    monkeypatch.setattr(recipes, "run", run)
    command = "--recipes pgd,mart --epochs 9 --ramp 3 --radius 0.2 -n 7 --seed 4"
    assert main(f"study recipes {command} --run-dir {tmp_path}/a".split()) == 2
    assert asked == [recipes.Settings(("pgd", "mart"), radius=0.2, epochs=9, ramp=3, judged=7, seed=4)]


def test_an_unknown_recipe_is_named(capsys):
    assert main(["study", "recipes", "--recipes", "pgd,tredes"]) == 2
    assert "got 'tredes'" in capsys.readouterr().err
