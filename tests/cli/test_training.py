"""`fastadv train`: the options around the recipe, as `fit` gets them, and what is told at the end."""

from dataclasses import replace

import pytest
import torch
import typer

import fastadv as fa
from fastadv.cli import _train
from fastadv.cli._presets import Presets
from fastadv.cli._recipes import parse_ramp
from fastadv.cli._shared import Network
from fastadv.errors import InputError
from fastadv.train import Optimization
from fastadv.train.measuring import Measure
from fastadv.train.presets import PRESETS
from fastadv.train.schedules import SCHEDULES

LINE = "train -m small_cnn -o width=2 --data digits -n 60 --batch-size 30 --test-samples 20"
ROBUST = f"{LINE} --recipe pgd --steps 1 --radius 0.1"


@pytest.mark.slow
def test_every_option_reaches_the_run(fastadv, folder, monkeypatch):
    given = {}
    each_epoch = _train.each_epoch

    def spy(*args, **options):
        given.update(options)
        for group in ("optimization", "ending", "execution", "measuring"):
            given.update(vars(options[group]))
        return each_epoch(*args, **options)

    monkeypatch.setattr(_train, "each_epoch", spy)
    done = fastadv(
        f"{ROBUST} --epochs 3 --schedule cyclic:peak=0.3 --schedule-by epoch --warm-up 1/2 --clip-norm 1.5 "
        "--ramp 1 --max-norm 2 --ema 0.9 --patience 3 --on-alarm rewind --precision bf16 --run-dir run "
        "--optimizer adamw --learning-rate 0.002 --weight-decay 0.01 --no-norm-decay --momentum 0.8 "
        "--accumulate 2 --drop-last --test-every 2 --seed 3 --norm l2"
    )
    wanted = {
        "schedule": replace(SCHEDULES["cyclic"], peak=0.3), "schedule_by": "epoch", "warm_up": 0.5,
        "clip_norm": 1.5, "ramp": 1, "max_norm": 2.0, "ema": 0.9, "patience": 3, "on_alarm": "rewind",
        "precision": "bf16", "optimizer": "adamw", "learning_rate": 0.002, "weight_decay": 0.01,
        "norm_decay": False, "momentum": 0.8, "accumulate": 2, "drop_last": True, "test_every": 2, "seed": 3,
        "batch_size": 30,
    }  # fmt: skip
    assert {name: given[name] for name in wanted} == wanted
    assert len(given["test_set"]) == 20
    (attack,) = given["test_attacks"].values()
    assert (attack.keywords["threat"].norm, attack.keywords["threat"].radius) == ("l2", 0.1)
    assert (attack.keywords["steps"], attack.keywords["seed"]) == (10, 3)
    assert done.out.count("EMA") == 2
    for line in (
        "weights in run/model.safetensors",
        "their moving average in run/ema.safetensors",
        "the best under attack, on the test images, in run/best.safetensors",
    ):
        assert line in done.out


@pytest.mark.slow
def test_weights_that_another_run_left_are_not_named(fastadv, folder):
    fastadv(f"{ROBUST} --epochs 1 --ema 0.9 --run-dir run")
    (folder / "run" / "checkpoint.safetensors").unlink()
    done = fastadv(f"{LINE} --epochs 1 --run-dir run")
    assert "weights in run/model.safetensors" in done.out
    assert "ema" not in done.out
    assert "best" not in done.out


@pytest.mark.slow
@pytest.mark.parametrize("test", [True, False])
def test_images_of_all_classes_are_held_out(fastadv, folder, monkeypatch, test):
    given = []
    each_epoch = _train.each_epoch

    def spy(model, train_set, *args, **options):
        given.append((train_set, options["measuring"].validation_set, options["test_set"]))
        return each_epoch(model, train_set, *args, **options)

    monkeypatch.setattr(_train, "each_epoch", spy)
    line = ROBUST
    if not test:  # a constructed set has no test split
        net = "-m small_cnn -o width=2 --data digits -n 60"
        fastadv(f"construct random-target {net} --steps 1 --radius 0.5 --step-size 0.1 --out made")
        line = ROBUST.replace("--data digits", "--data made").replace("--test-samples 20", "")
    done = fastadv(f"{line} --epochs 2 --ema 0.9 --patience 1 --validation 13")
    [(train_set, held_out, test_set)] = given
    whole = fa.data.load("digits", limit=60) if test else fa.data.load_constructed("made")
    for part, of in zip((train_set, held_out), fa.data.hold_out(whole, 13, seed=0), strict=False):
        assert torch.equal(part.x, of.x)
        assert torch.equal(part.y, of.y)
    assert len(held_out.y.unique()) == 10
    assert (test_set is not None) == test
    assert done.out.count("validation") == 1


@pytest.mark.slow
def test_the_images_held_out_are_those_of_the_seed(fastadv, folder):
    line = f"{ROBUST} --validation 13 --run-dir fresh --schedule constant --json --seed 4"
    dataset = fa.data.load("digits", limit=60)
    for more in ("--epochs 1", "--epochs 2 --resume"):
        config = fastadv(f"{line} {more}").json["config"]
        assert config["validation"] == fa.data.hold_out(dataset, 13, seed=4).about
    assert config["chosen_on"] == "validation_set"


@pytest.mark.slow
def test_an_alarm_is_told_in_json_and_under_the_table(fastadv, folder, monkeypatch):
    for more in ("", "--json"):
        told = iter([0.9, 0.0, 0.0])
        monkeypatch.setattr(Measure, "_accuracies", lambda self, model, told=told: (0.9, {"pgd": next(told)}))
        monkeypatch.setattr(Measure, "own_accuracy", lambda self, steps: 0.9)
        done = fastadv(f"{ROBUST} --epochs 3 --on-alarm stop", *more.split())
        if more:
            epochs = done.json["measured"]["epochs"]
            assert [bool(epoch["alarm"]) for epoch in epochs] == [False, True]
        else:
            assert "epoch 2: catastrophic overfitting" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("text", "ramp"),
    [("2", 2), ("0.2", 0.2), ("1/5", 0.2)],
)
def test_a_ramp_in_words(text, ramp):
    assert parse_ramp(text) == ramp


@pytest.mark.parametrize("text", ["", "two", "0", "1.5", "2:3"])
def test_a_ramp_that_cannot_be_understood(text):
    with pytest.raises((typer.BadParameter, InputError)):
        Optimization(ramp=parse_ramp(text))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--patience 2", "need the --radius"),
        ("--validation 20", "need the --radius"),
        ("--radius 0.1 --recipe pgd --validation 60", "fewer than the 60 images, got 60"),
        ("--radius 0.1 --recipe pgd --validation 9", "expected 10 to 50 images, so that each class"),
        ("--on-alarm stop", "need the --radius"),
        ("--ramp 2", "ramp: expected a recipe"),
        ("--radius 0.1 --recipe pgd --ramp 3 --epochs 3", "ramp: expected from 1 epoch to fewer than all 3"),
        ("--schedule sometimes", "schedule"),
    ],
)  # fmt: skip
def test_wrong_options_are_wrong_usage(refused, options, word):
    refused(f"{LINE} {options}", word)


def test_presets_are_listed_with_published_figures(fastadv):
    listed = fastadv("train --presets --json").json
    assert listed.keys() == PRESETS.keys()
    assert listed["wong2020"]["options"]["schedule"] == "cyclic_half"
    assert (listed["fastat"]["clean"], listed["fastat"]["robust"]) == (82.4, 50.49)
    printed = fastadv("train --presets").out
    assert all(name[:8] in printed for name in PRESETS)


@pytest.mark.parametrize(
    ("options", "told"),
    [("--preset rice2020 --data digits", "settings for cifar10, not for --data digits"),
     ("--preset nobody", "expected one of wong2020"),
     ("--preset debenedetti2022", "--model"),
     ("--preset wang2023", "--generated and --fraction belong together"),
     ("-m small_cnn -d digits --schedule sometimes", "no schedule 'sometimes'"),
     ("-m small_cnn -d digits --accumulate 0", "accumulate")],
)  # fmt: skip
def test_a_preset_or_option_that_cannot_be_is_wrong_usage(refused, options, told):
    refused(f"train {options}", told)


def test_arguments_of_the_model_stand_beside_those_of_a_preset():
    def options(model, *given):
        option = list(given) or None
        return Presets(preset="rice2020").complete(Network(model=model, option=option)).option

    assert options("wide_resnet") == ["depth=34", "widen_factor=20", "normalize=cifar10"]
    assert options("wide_resnet", "widen_factor=1", "depth=10") == [
        "normalize=cifar10", "widen_factor=1", "depth=10",
    ]  # fmt: skip
    assert options("small_cnn") is None
    assert options("small_cnn", "width=2") == ["width=2"]
