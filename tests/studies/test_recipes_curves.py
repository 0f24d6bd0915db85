"""The recipes on CIFAR-10 and over seeds, in miniature: settings, folders, judged weights, curves."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.cli import _study_recipes, main
from fastadv.errors import InputError
from fastadv.models.weights import read_weights
from fastadv.studies.recipes import plan, report, work

from .test_recipes import digits

CIFAR10 = plan.SETS["cifar10"]
TINY = replace(
    CIFAR10, model="softmax", options={}, images=None, epochs=3, batch_size=8, tested=8, test_every=2,
    judged=4, version="quick", precision="fp32",
)  # fmt: skip


def line(recipe: str, seed: int, alarms: tuple[int, ...] = (), shift: float = 0.0) -> dict[str, Any]:
    """Return what `run` says of a run in which PGD rises from 10% to 30%, but for `shift`."""
    points = [
        {"epoch": epoch, "clean": 0.5, "own": 0.4, "PGD-20": pgd + shift, "averaged": None}
        for epoch, pgd in ((1, 0.1), (2, 0.3))
    ]
    return {
        "recipe": recipe, "seed": seed, "seconds": 4.0 + 2 * seed, "clean": 0.5, "pgd": 0.3 + shift,
        "autoattack": 0.2 + shift, "best_pgd": 0.3 + shift, "best_autoattack": 0.25 if alarms else None,
        "alarms": [{"epoch": epoch, "text": "robust overfitting: fell"} for epoch in alarms], "judged": 4,
        "curve": points,
    }  # fmt: skip


def told(*lines: dict[str, Any]) -> dict[str, Any]:
    seeds = len({one["seed"] for one in lines})
    config = {**vars(replace(CIFAR10, seeds=seeds)), "train": {"samples": 60}}
    return {"config": config, "measured": {"lines": lines}, "machine": {"cpu": "a core"}, "date": "today"}


def test_the_recipes_on_cifar10_are_those_of_their_papers():
    made = {name: CIFAR10.of(name, 3) for name in CIFAR10.recipes}
    assert list(made) == ["fgsm", "n-fgsm", "nuat", "pgd", "trades+awp"]
    for name, own in made.items():
        inner: Any = own.recipe()
        assert getattr(inner, "recipe", inner).threat.radius == (16 if name == "fgsm" else 8) / 255
        assert (own.seed, own.seeds, own.schedule, own.weight_decay) == (3, 1, "one_cycle", 5e-4)
    assert {name for name, own in made.items() if own.ema} == {"trades+awp"}
    assert {name for name, own in made.items() if not own.augment} == {"fgsm"}
    assert made["fgsm"].recipe().weight == 0
    assert made["n-fgsm"].recipe().method == "n-fgsm"
    assert (made["nuat"].recipe().rise, made["nuat"].learning_rate) == (5, 0.1)
    assert replace(CIFAR10, epochs=3).of("nuat", 0).recipe().rise == 1
    pgd, awp = made["pgd"].recipe(), made["trades+awp"].recipe()
    assert (pgd.steps, pgd.step_size) == (7, pytest.approx(2 / 255))
    assert (awp.recipe.steps, awp.recipe.step_size) == (10, pytest.approx(2 / 255))
    assert (awp.gamma, awp.recipe.beta) == (0.005, 6.0)


def test_settings_name_what_is_wrong():
    with pytest.raises(InputError, match="expected one of mnist, cifar10, got 'svhn'"):
        plan.Settings(data="svhn")
    with pytest.raises(InputError, match=r"n-fgsm, nuat, pgd.* on cifar10, got 'mart'"):
        replace(CIFAR10, recipes=("mart",))
    with pytest.raises(InputError, match="seeds"):
        replace(CIFAR10, seeds=0)
    with pytest.raises(InputError, match="seed"):
        replace(CIFAR10, seed=2**63 - 1, seeds=2)


@pytest.mark.slow
def test_seeds_lie_in_studies_of_their_own_and_averaged_weights_are_judged(tmp_path, monkeypatch):
    judged, judge = list[tuple[str, dict[str, Any]]](), work.judge
    read, load = list[Any](), fa.models.load_weights

    def judging(model, test_set, threat, settings, folder):
        judged.append(
            (str(folder.relative_to(tmp_path)), {k: v.clone() for k, v in model.state_dict().items()})
        )
        return judge(model, test_set, threat, settings, folder)

    monkeypatch.setattr(work, "judge", judging)
    monkeypatch.setattr(fa.models, "load_weights", lambda model, path: (read.append(path), load(model, path)))
    data, steps = (digits("train", 24), digits("test", 8)), list[str]()
    settings = replace(TINY, recipes=("pgd", "trades+awp"), seed=4)
    alone = work.run(replace(settings, seed=5), *data, tmp_path / "seed5")
    both = work.run(replace(settings, seeds=2), *data, tmp_path, lambda what, *rest: steps.append(what))
    lines = both["measured"]["lines"]
    assert [(one["recipe"], one["seed"]) for one in lines] == [
        ("pgd", 4), ("trades+awp", 4), ("pgd", 5), ("trades+awp", 5)
    ]  # fmt: skip
    assert lines[2:] == alone["measured"]["lines"]
    assert lines[0]["curve"] != lines[2]["curve"]
    assert {what for what in steps if what.startswith("training")} == {"training pgd", "training trades+awp"}
    for one in lines:
        averaged = one["recipe"] == "trades+awp"
        assert [point["epoch"] for point in one["curve"]] == [2, 3]
        last = one["curve"][-1]
        assert (last["averaged"] is not None) == averaged
        shown = last["averaged"] or last
        assert one["pgd"] == shown["PGD-20"]
        assert shown["AutoAttack quick"] <= shown["PGD-20"] <= shown["clean"]
        assert last["own"] is not None
    assert [folder for folder, _ in judged[2:]] == [
        f"{name}/evaluation"
        for name in ("pgd", "trades+awp")  # those of seed 5 are read
    ]
    # the best weights are averaged ones, too, so the file that was read tells more than their values
    assert read == [tmp_path / seed / "trades+awp" / "ema.safetensors" for seed in ("seed5", "")]
    for folder, weights in judged:
        kind = "ema" if "awp" in folder else "model"
        kept = read_weights(tmp_path / folder / ".." / f"{kind}.safetensors")[0]
        assert all(torch.equal(weights[name], kept[name]) for name in kept)
    about = (tmp_path / "curves.png").read_bytes()
    assert b"seed\x004, 5" in about


@pytest.mark.slow
def test_a_stopped_study_goes_on_and_one_measured_otherwise_is_refused(tmp_path):
    data, settings = (digits("train", 24), digits("test", 8)), replace(TINY, recipes=("n-fgsm", "pgd"))

    def stop(what, done, total):
        if what == "training pgd" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.run(settings, *data, tmp_path / "a", stop)
    here, there = (work.run(settings, *data, tmp_path / name)["measured"]["lines"] for name in "ab")
    for one, other in zip(here, there, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    with pytest.raises(InputError, match=r"another tested \(8 there, 4 here\)"):
        work.run(replace(settings, tested=4), *data, tmp_path / "a")
    with pytest.raises(InputError, match=r"another .*seed"):
        work.run(replace(settings, seed=1), *data, tmp_path / "a")


@pytest.mark.slow
def test_the_best_weights_are_judged_too_where_an_alarm_was_raised(tmp_path, monkeypatch):
    reports, judged = fa.train.reports, list[Any]()

    def alarmed(folder):
        first, *rest = reports(folder)
        return [replace(first, alarm="catastrophic overfitting: fell"), *rest]

    def judging(model, test_set, threat, settings, folder):
        judged.append((folder.name, model.state_dict()))
        return type("Table", (), {"clean_accuracy": 0.5, "n": 4}), 0.1 * len(judged)

    monkeypatch.setattr(fa.train, "reports", alarmed)
    monkeypatch.setattr(work, "judge", judging)
    settings = replace(TINY, recipes=("fgsm",), watched=False, test_every=1)
    (one,) = work.run(settings, digits("train", 24), digits("test", 8), tmp_path)["measured"]["lines"]
    assert [name for name, _ in judged] == ["evaluation", "evaluation_best"]
    assert (one["autoattack"], one["best_autoattack"]) == (0.1, 0.2)
    assert one["alarms"] == [{"epoch": 1, "text": "catastrophic overfitting: fell"}]
    kept = read_weights(tmp_path / "fgsm" / "best.safetensors")[0]
    assert all(torch.equal(judged[1][1][name], kept[name]) for name in kept)


def test_the_table_shows_the_mean_and_the_range_over_seeds():
    result = told(
        line("pgd", 0), line("fgsm", 0, (7,)), line("pgd", 1, shift=-0.1), line("fgsm", 1, (6,), 0.1)
    )
    _, pgd, fgsm = report.table(result)
    assert pgd[2:] == [
        "25.0% (20.0% to 30.0%)", "25.0% (20.0% to 30.0%)", "15.0% (10.0% to 20.0%)", "-", "5", "-"
    ]  # fmt: skip
    assert fgsm[4] == "25.0% (20.0% to 30.0%)"
    assert fgsm[-3:] == ["25.0% (25.0% to 25.0%)", "5", (
        "seed 0, epoch 7: robust overfitting; seed 1, epoch 6: robust overfitting")]  # fmt: skip
    page = report.markdown(result)
    assert "seeds 0 to 1: the mean" in page
    assert "every 3 epochs" in page
    assert "free:" not in page


def test_the_command_takes_the_settings_of_its_data_set(tmp_path, monkeypatch, capsys):
    asked: list[Any] = []

    def run(settings, *rest, **options):
        asked.append((settings, options["command"]))
        raise InputError("enough")

    def load(name, split, data_dir, limit=None):
        asked.append((name, split, limit))
        return digits(split, 12)

    monkeypatch.setattr(_study_recipes, "load_data", load)
    monkeypatch.setattr(_study_recipes, "run", run)
    command = f"study recipes --data cifar10 --seeds 3 --seed 2 --run-dir {tmp_path}/a"
    monkeypatch.setattr("sys.argv", ["fastadv", *command.split()])
    assert main(command.split()) == 2
    assert asked[:2] == [("cifar10", "train", 10_000), ("cifar10", "test", None)]
    assert asked[2][0] == replace(CIFAR10, seeds=3, seed=2)
    assert asked[2][1] == f"fastadv {command}"
    more = "--recipes nuat --epochs 4 --tested 9 --test-every 2 --limit 50 --ramp 1 --radius 1/255 -n 3"
    assert main(f"{command} {more}".split()) == 2
    assert asked[3][2] == 50
    assert asked[5][0] == replace(
        CIFAR10, recipes=("nuat",), seeds=3, seed=2, epochs=4, tested=9, test_every=2, images=50, ramp=1,
        radius=1 / 255, judged=3,
    )  # fmt: skip
    assert main(["study", "recipes", "--data", "svhn"]) == 2
    assert "mnist, cifar10" in json.dumps(capsys.readouterr().err)
