"""The recipes side by side, in miniature: what is trained, kept, judged and told."""

import json
from dataclasses import replace
from typing import Any

import pytest

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.studies.recipes import plan, work

TINY = plan.Settings(epochs=2, ramp=1, batch_size=16, tested=4, judged=2, version="quick")


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
    result = work.run(settings, *sets, tmp_path, lambda what, *rest: seen.append(what))
    assert judged == [(0.3, "quick", 5, 2)] * len(plan.RECIPES["mnist"])
    wanted = {"batch_size": 16, "learning_rate": 0.003, "seed": 5}
    for name, options in zip(plan.RECIPES["mnist"], trained, strict=True):
        assert {key: options[key] for key in wanted} == wanted
        assert options["measuring"].test_limit == 4
        assert options["epochs"] == (1 if name == "free" else 2)
        assert options["optimization"].ramp == (None if name in ("standard", "free") else 1)
    lines = result["measured"]["lines"]
    assert [line["recipe"] for line in lines] == list(plan.RECIPES["mnist"])
    for line in lines:
        assert line["judged"] == 2
        assert 0 <= line["autoattack"] <= line["clean"] <= 1
        # of the last epoch, of the best; free has one
        assert (line["pgd"], line["best_pgd"]) == (0.5 if line["recipe"] == "free" else 0.4, 0.5)
    assert json.loads((tmp_path / "results.json").read_text())["measured"] == result["measured"]
    page = (tmp_path / "report.md").read_text()
    assert all(f"| {name} |" in page for name in plan.RECIPES["mnist"])
    assert {f"training {name}" for name in plan.RECIPES["mnist"]} <= set(seen)


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    data = digits("train", 16), digits("test", 8)
    first = work.run(replace(TINY, recipes=("pgd",)), *data, tmp_path)
    steps: list[str] = []
    both = work.run(
        replace(TINY, recipes=("pgd", "fgsm")), *data, tmp_path, lambda what, *rest: steps.append(what)
    )
    assert both["measured"]["lines"][0] == first["measured"]["lines"][0]
    assert "training pgd" not in steps
    assert "training fgsm" in steps
    for weights in tmp_path.glob("*/*.safetensors"):
        weights.unlink()
    assert work.run(replace(TINY, recipes=("pgd",)), *data, tmp_path)["measured"] == first["measured"]
    with pytest.raises(InputError, match=r"another radius \(0.3 there, 0.1 here\)"):
        work.run(replace(TINY, recipes=("pgd",), radius=0.1), *data, tmp_path)


def test_free_training_gets_its_epochs_divided_by_the_replays():
    free, pgd = (plan.Settings((name,)).recipe() for name in ("free", "pgd"))
    assert plan.lengths(plan.Settings(epochs=10, ramp=2), free) == (3, 1)
    assert plan.lengths(plan.Settings(epochs=10, ramp=2), pgd) == (10, 2)
    assert plan.lengths(plan.Settings(epochs=2, ramp=1), free) == (1, None)
    assert plan.lengths(plan.Settings(epochs=10, ramp=2), fa.train.Standard()) == (10, None)
