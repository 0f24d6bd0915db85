"""`fastadv train`: its recipes in text, what it is fed, its options as `fit` gets them, and what it tells."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import fastadv as fa
from fastadv import train
from fastadv.cli import _train
from fastadv.cli._shared import Budget, load_data
from fastadv.cli._train import parse_recipe
from fastadv.data import load
from fastadv.models import SmallCNN
from fastadv.train.schedules import SCHEDULES


@pytest.mark.parametrize(
    ("text", "options", "kind", "fields"),
    [
        ("standard:label_smoothing=0.1", {}, train.Standard, {"label_smoothing": 0.1}),
        ("pgd:random_start=false", {"steps": 3}, train.PGDTraining, {"steps": 3, "random_start": False}),
        ("trades:beta=3,steps=4", {"step_size": 0.02}, train.TRADES, {"beta": 3, "step_size": 0.02}),
        ("fast:method=n-fgsm", {}, train.FastTraining, {"method": "n-fgsm"}),
        ("consistency:sigma=0.5,weight=5", {}, train.Consistency, {"sigma": 0.5, "weight": 5}),
        ("aligned:to=texts", {"steps": 4}, train.Aligned, {"to": "texts", "steps": 4}),
    ],
)
def test_name_and_arguments(text, options, kind, fields):
    recipe = parse_recipe(text, Budget(radius=0.1, **options))
    assert type(recipe) is kind
    assert {name: getattr(recipe, name) for name in fields} == fields
    if hasattr(recipe, "threat"):
        assert isinstance(recipe.threat, fa.Linf)
        assert recipe.threat.radius == 0.1


def test_samples_of_a_sorted_folder_are_of_all_classes(tmp_path):
    """A set in a folder, whose classes come one after another; a published set keeps its first images."""
    dataset = fa.data.ImageSet(torch.zeros(60, 1, 4, 4), torch.arange(60) // 6, 10, "sorted")
    net = SmallCNN((1, 4, 4), 10, width=2)
    fa.data.construct.fixed_shift(net, dataset, threat=fa.L2(0.1), steps=1, out_dir=tmp_path)
    assert len(load_data(str(tmp_path), samples=20).y.unique()) == 10
    assert load_data("digits", samples=20).data_hash == load("digits", "test", limit=20).data_hash


def test_photographs_of_several_sizes_are_resized_in_both_sets(fastadv, refused, folder):
    for k, kind in enumerate(["cat", "dog"] * 6):
        (folder / "pets" / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8 + k), (20 * k, 0, 0)).save(folder / "pets" / kind / f"{k}.png")
    line = "train -m small_cnn -o width=2 --epochs 1 --data-dir pets"
    refused(f"{line} --data imagefolder", "load the set with --size 32, or another number, to resize")
    sized = ("imagefolder:size=8", "imagefolder --size 8")
    one, other = (fastadv(f"{line} --data {more} --json").json for more in sized)
    assert one["config"]["data"] == other["config"]["data"]
    assert one["config"]["data"]["shape"] == [3, 8, 8]
    assert one["config"]["data"]["name"] == "pets train"
    assert one["measured"]["epochs"][0]["clean_accuracy"] is not None
    refused(f"{line} --data imagefolder:size=8 --size 9", "expected one size, a whole number, got '8' and 9")


LINE = "train -m small_cnn -o width=2 --data digits -n 60 --batch-size 30 --test-samples 20"
ROBUST = f"{LINE} --recipe pgd --steps 1 --radius 0.1"


@pytest.fixture
def runs(monkeypatch):
    runs, each_epoch = [], _train.each_epoch

    def spy(model, train_set, *arguments, **options):
        runs.append((train_set, options))
        return each_epoch(model, train_set, *arguments, **options)

    monkeypatch.setattr(_train, "each_epoch", spy)
    return runs


@pytest.mark.slow
def test_every_option_reaches_the_run(fastadv, folder, runs):
    done = fastadv(
        f"{ROBUST} --epochs 3 --schedule cyclic:peak=0.3 --ramp 1 --max-norm 2 --ema 0.9 --patience 3 "
        "--on-alarm rewind --precision bf16 --run-dir run --optimizer adamw --learning-rate 0.002 "
        "--weight-decay 0.01 --seed 3 --norm l2 --checkpoint-every 5"
    )
    ((_, options),) = runs
    (attack,) = options.pop("test_attacks").values()
    threat = attack.keywords.pop("threat")
    assert (threat.norm, threat.radius, attack.keywords) == ("l2", 0.1, {"steps": 10, "seed": 3})
    assert len(options["test_set"]) == 20
    schedule = replace(SCHEDULES["cyclic"], peak=0.3)
    wanted = {
        "optimization": train.Optimization(weight_decay=0.01, schedule=schedule, max_norm=2, ramp=1, ema=0.9),
        "ending": train.Ending(patience=3, on_alarm="rewind"),
        "execution": train.Execution(precision="bf16", checkpoint_every=5),
    }
    wanted |= {"optimizer": "adamw", "learning_rate": 0.002, "seed": 3, "batch_size": 30, "epochs": 3}
    assert {name: options[name] for name in wanted} == wanted
    assert "PGD-10, L2 0.1" in done.out
    for name in ("model", "ema", "best"):
        assert f"in run/{name}.safetensors" in done.out


@pytest.mark.slow
@pytest.mark.parametrize("test", [True, False])
def test_images_of_all_classes_are_held_out(fastadv, folder, runs, test):
    line = ROBUST
    if not test:  # a constructed set has no test split
        net = "-m small_cnn -o width=2 --data digits -n 60"
        fastadv(f"construct random-target {net} --steps 1 --radius 0.5 --step-size 0.1 --out made")
        line = ROBUST.replace("--data digits", "--data made").replace("--test-samples 20", "")
    line = f"{line} --epochs 2 --ema 0.9 --patience 1 --validation 13 --seed 4 --run-dir run"
    out = " ".join(fastadv(line).out.split())
    assert out.count("validation") == 2  # the column, and what chose the best
    assert "EMA PGD-10, L∞ 0.1 on validation" in out
    assert "worst class" in out
    card = fastadv(f"{line} --resume --json").json
    assert [report["epoch"] for report in card["measured"]["epochs"]] == [1, 2]
    names = {name for report in card["measured"]["epochs"] for name in report["validation_robust_accuracy"]}
    assert names == {"PGD-10, L∞ 0.1"}  # as in the table
    whole = fa.data.load("digits", limit=60) if test else fa.data.load_constructed("made")
    drawn = fa.data.hold_out(whole, 13, seed=4)
    chosen = card["config"]["validation"], card["config"]["chosen_on"]
    assert chosen == (drawn.about, "validation_set")
    train_set, options = runs[0]
    held_out = options["measuring"].validation_set
    for part, of in zip((train_set, held_out), drawn, strict=False):
        assert torch.equal(part.x, of.x)
        assert torch.equal(part.y, of.y)
    assert len(held_out.y.unique()) >= 9
    assert (options["test_set"] is not None) == test


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--patience 2", "need the --radius"),
        ("--validation 20", "need the --radius"),
        ("--radius 0.1 --recipe pgd --validation 60", "fewer than the 60 images, got 60"),
        ("--on-alarm stop", "need the --radius"),
        ("--ramp 2", "ramp: expected a recipe"),
        ("--radius 0.1 --recipe pgd --ramp 3 --epochs 3", "ramp: expected from 1 epoch to fewer than all 3"),
        ("--augment mixer", "augmentation: expected one of crop, flip, "),
        ("--augment crop+", "got ''"),
        ("--augment crop_flip:padding=2", "crop_flip takes no 'padding'; it takes none"),
        ("--augment cutout:side=3", "cutout takes no 'side'; it takes size, fill"),
        ("--augment crop:padding=big", "expected padding to be a whole number, got 'big'"),
        ("--schedule sometimes", "schedule: expected one of constant, "),
        ("--accumulate 0", "accumulate"),
        ("--workers 2", "workers: expected None for images in memory"),
    ],
)  # fmt: skip
def test_wrong_options_are_wrong_usage(refused, options, word):
    refused(f"{LINE} {options}", word)
