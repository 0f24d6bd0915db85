"""`fastadv abs`: a model trained, measured, bounded, attacked and drawn, and what it says of wrong usage."""

from functools import partial
from pathlib import Path

import pytest
import torch

import fastadv as fa
from fastadv.cli import main
from fastadv.data import load
from fastadv.models import ABS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ABS, "fit", partial(ABS.fit, calibration=50))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("abs")
    line = f"abs train --data digits --run-dir {folder} --epochs 6 --beta 3,0.3 --prior-samples 200"
    line += " --test-samples 20 --json"
    assert main(line.split()) == 0
    return str(folder / "model.safetensors")


def test_train_measures_and_resumes(fastadv, refused):
    line = "abs train --data digits --samples 200 --run-dir run --epochs 2"
    line += " --prior-samples 50 --test-samples 20"
    measured = fastadv(line, "--json").json["measured"]
    assert measured["training"]["loss"] > 0
    assert measured.keys() == {"training", "abs", "binary_abs"}
    assert "model in run/model.safetensors" in fastadv(line, "--resume").out
    assert ABS.load("run/model.safetensors").card["config"]["epochs"] == 2
    refused(line, "--resume")


def test_infer_equals_the_library(fastadv, model):
    settings = {"prune": True, "precision": "bf16", "binary": True}
    line = f"abs infer -m {model} --data digits --samples 20 --batch-size 12 --json"
    card = fastadv(f"{line} --prune --precision bf16 --binary").json
    twin, digits = ABS.load(model).with_options(**settings), load("digits", "test", limit=20)
    inferred = [twin.infer(x) for x in digits.x.split(12)]
    right = float((torch.cat([part.loss for part in inferred]).argmin(1) == digits.y).double().mean())
    median = float(torch.cat([part.confidence for part in inferred]).amax(1).median())
    assert card["measured"] == pytest.approx({"accuracy": right, "median_confidence": median})
    assert right > 0.6
    assert settings.items() <= card["config"].items()


@pytest.mark.parametrize(
    ("options", "settings"), [("--tight", {"tight": True}), ("--norm linf", {"norm": "linf"})]
)
def test_bound_equals_the_library(fastadv, model, options, settings):
    measured = fastadv(f"abs bound -m {model} --data digits --samples 2 --json {options}").json["measured"]
    digits = load("digits", "test", limit=2)
    radius = ABS.load(model).lower_bound(digits.x, digits.y, **settings)
    error, positive = radius.std() / 2**0.5, (radius > 0).double().mean()
    values = (radius.mean(), error, radius.quantile(0.5), positive)
    names = ("mean", "standard_error", "median", "above_zero")
    assert measured == pytest.approx(dict(zip(names, map(float, values), strict=True)), rel=1e-4)


def test_attack_equals_evaluate(fastadv, model, monkeypatch):
    monkeypatch.setattr("fastadv.cli._abs.THRESHOLD", 0.8)
    descent = partial(fa.attacks.latent_descent, steps=300)
    monkeypatch.setattr(fa.attacks, "latent_descent", descent)
    measured = fastadv(f"abs attack -m {model} --data digits --samples 5 --json").json["measured"]
    table = fa.evaluate(ABS.load(model), load("digits", "test", limit=5), {"latent descent": descent})
    row = table["latent descent"]
    assert measured["median_distance"] == pytest.approx(row.median_distance, rel=1e-3)
    assert measured["clean_accuracy"] == pytest.approx(table.clean_accuracy)
    assert measured["broken"] == pytest.approx(float(row.broken.double().mean()))
    assert measured["accuracy"] == pytest.approx(float((row.distance > 0.8).double().mean()))
    assert 0 < measured["accuracy"] < 1
    assert measured["attacks"][0]["forwards"] == row.forwards


def test_pictures(fastadv, model):
    shown = fastadv(f"abs show -m {model} --data digits --index 3 --out seen.png --json").json
    digits, net = load("digits", "test"), ABS.load(model)
    x = digits.x[3:4]
    assert shown["loss"] == pytest.approx(net.infer(x).loss[0].tolist(), rel=1e-4)
    assert shown["confidence"] == pytest.approx(net.confidence(x)[0].tolist(), rel=1e-3)
    assert (shown["index"], shown["label"]) == (3, int(digits.y[3]))
    assert shown["prediction"] == int(torch.tensor(shown["loss"]).argmin())
    assert Path("seen.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_usage(refused, model):
    digits = f"-m {model} --data digits"
    for line, word in (
        ("infer -m nowhere --data digits", "does not exist"),
        (f"show {digits} --index 999 --out a.png", "--index"),
        (f"show {digits} --out a.gif", ".png"),
        (f"attack {digits} --seed 1", "--seed"),
        (f"bound {digits} --norm l1", "l1"),
        (f"bound {digits} --norm l0 --samples 2", "l0"),
        ("train --data digits --run-dir r --beta 3", "FROM,TO"),
    ):
        refused(f"abs {line}", word)
