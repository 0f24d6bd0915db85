"""The record of a speed run, in miniature."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.cli import _speedrun, main
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.studies import speedrun

TINY = replace(
    speedrun.SIZES["small"], width=2, epochs=2, batch_size=16, judged=4, version="quick", goal=0.0,
    recipe=fa.train.FastTraining(speedrun.THREAT),
)  # fmt: skip


def images(count, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, 3, 16, 16), generator=draw, dtype=torch.uint8)
    return ImageSet(x, torch.arange(count) % 10, 10, "noise")


@pytest.mark.slow
def test_the_record_is_of_the_settings_and_of_the_averaged_weights(tmp_path, monkeypatch):
    seen: list[str] = []
    asked: dict[str, Any] = {}
    judged: list[dict[str, Any]] = []
    fit, evaluate = fa.train.fit, fa.evaluate

    def fitting(*given, **options):
        asked.update(options)
        return fit(*given, **options)

    def judging(model, *args, **options):
        judged.append({name: value.clone() for name, value in model.state_dict().items()})
        return evaluate(model, *args, **options)

    monkeypatch.setattr(fa.train, "fit", fitting)
    monkeypatch.setattr(fa, "evaluate", judging)
    settings = replace(TINY, learning_rate=0.01, ema=0.5, augment=("flip",), seed=3)
    sets = images(32, 0), images(8, 1)
    record = speedrun.run(settings, *sets, tmp_path, lambda what, *rest: seen.append(what), precision="fp32")
    wanted = {
        "epochs": 2, "batch_size": 16, "learning_rate": 0.01, "augment": ("flip",), "seed": 3,
        "optimization": fa.train.Optimization(schedule="one_cycle", ema=0.5),
        "execution": fa.train.Execution(precision="fp32"),
    }  # fmt: skip
    assert {name: asked[name] for name in wanted} == wanted
    model = fa.models.create("resnet18", shape=(3, 16, 16), width=2, normalize="cifar10")
    fa.models.load_weights(model, tmp_path / "training" / "ema.safetensors")
    assert all(torch.equal(value, judged[0][name]) for name, value in model.state_dict().items())
    measured = record["measured"]
    past = fa.train.reports(tmp_path / "training")
    assert measured["seconds"] == sum(report.seconds for report in past)
    assert measured["images_per_second"] == pytest.approx(64 / measured["seconds"])
    assert 0 <= measured["autoattack"] <= measured["clean"] <= 1
    assert measured["judged"] == 4
    assert measured["reached"]
    assert record["config"]["precision"] == "fp32"
    assert json.loads((tmp_path / "record.json").read_text())["measured"] == measured
    assert {"training", "judging"} <= set(seen)
    assert all(report.clean_accuracy is None for report in past)  # no test costs the run its time
    again = speedrun.run(settings, *sets, tmp_path, precision="fp32")
    assert again["measured"]["seconds"] == measured["seconds"]
    with pytest.raises(InputError):
        speedrun.run(replace(settings, batch_size=8), *sets, tmp_path, precision="fp32")


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    asked: list[Any] = []
    monkeypatch.setattr(speedrun, "SIZES", {"small": TINY, "full": TINY})

    def load(name, split, data_dir, limit=None):
        asked.append((name, split, limit))
        return images(limit or 8, len(asked))

    monkeypatch.setattr(_speedrun, "load_data", load)
    command = f"speedrun --epochs 1 --limit 16 -n 2 --goal 1 --run-dir {tmp_path}/a --recipe standard"
    assert main(command.split()) == 0
    assert asked == [("cifar10", "train", 16), ("cifar10", "test", None)]
    assert "missed the goal of 100.0%" in capsys.readouterr().out
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert record["config"]["precision"] == "bf16"
    assert "Standard" in str(record["config"]["recipe"])
    assert main(["speedrun", "--size", "huge"]) == 2
    assert "expected one of small, full" in capsys.readouterr().err
