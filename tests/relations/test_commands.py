"""Each command says what the library's own call says, figure by figure."""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.attacks.core.card import REGISTRY
from fastadv.data import construct, load, load_constructed
from fastadv.files import load_tensors
from fastadv.models import SmallCNN, load_weights
from tests.cli import conftest
from tests.cli.conftest import timeless

fastadv, folder, net, trained = conftest.fastadv, conftest.folder, conftest.net, conftest.trained
COUNT, RADIUS = 40, 0.05
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def digits() -> fa.data.ImageSet:
    return load("digits", "test", limit=COUNT)


def called(name: str) -> tuple[str, Any]:
    """An attack as text, and as the function that it stands for."""
    card = REGISTRY[name]
    quick = {key: value for key, value in card.quick.items() if isinstance(value, bool | int | float | str)}
    norm = next(name_of_norm for name_of_norm in ("linf", "l2", "l0") if name_of_norm in card.norms)
    radius = math.inf if card.minimal else {"linf": RADIUS, "l2": 0.5, "l0": 4}[norm]
    threat = {"linf": fa.Linf, "l2": fa.L2, "l0": fa.L0}[norm](radius)
    seed = {"seed": 3} if card.takes("seed") else {}
    words = {True: "true", False: "false"}
    parts = [f"{key}={words.get(v, v) if isinstance(v, bool) else v}" for key, v in quick.items()]
    parts += [f"norm={norm}"] + ([] if card.minimal else [f"radius={radius}"])
    return f"{name}:{','.join(parts)}", partial(card.run, threat=threat, **quick, **seed)


# one of each kind, as all that a command does with an attack follows from its card; and one in L0
NAMES = ("pgd", "mim", "square", "deepfool", "fab", "uniform_noise", "sigma_zero")


@pytest.mark.parametrize("name", NAMES)
def test_evaluate_writes_what_an_attack_returns(fastadv, net, trained, digits, name) -> None:
    text, attack = called(name)
    line = f"evaluate {net} -n {COUNT} -a {text} --seed 3 --batch-size 25 --out adv.safetensors --json"
    said = fastadv(line).json
    out = attack(trained, digits.x, digits.y)
    written, metadata = load_tensors("adv.safetensors")
    assert json.loads(metadata["card"]) == said
    assert said["measured"].pop("curves") == []
    (config,) = said["config"]["attacks"]
    assert (config["attack"], config["norm"]) == (name, attack.keywords["threat"].norm)
    assert {key: config[key] for key in REGISTRY[name].quick} == REGISTRY[name].quick
    for field in ("success", "status"):
        assert torch.equal(written[field], getattr(out, field)), field
    points = torch.where((out.status == fa.attacks.Status.BROKEN)[:, None, None, None], out.x_adv, digits.x)
    for field, value in (("x_adv", points), ("distance", out.distance.double())):
        torch.testing.assert_close(written[field], value, rtol=1e-4, atol=1e-5)
    assert torch.equal(written["x"], digits.x)
    assert written["ids"].tolist() == list(range(COUNT))
    assert out.success.any()
    wanted = fa.evaluate(trained, digits, {text: attack}, batch_size=25)
    assert timeless(said["measured"]) == timeless(wanted.to_dict())


def test_evaluate_prints_the_table_and_its_curves(fastadv, net, trained) -> None:
    line = f"evaluate {net} -n {COUNT} --norm l2 --radius 0.3 --steps 3 --seed 2"
    line += " -a fgsm -a pgd:loss=margin -a fmn:radius=inf,steps=9 --radii 0.4,0,0.2 --out all.safetensors"
    said, digits = fastadv(line, "--json").json, load("digits", "test", limit=COUNT)
    pgd = partial(fa.attacks.pgd, steps=3, loss="margin", seed=2)
    attacks = {
        "fgsm L2 0.3": lambda r: partial(fa.attacks.fgsm, threat=fa.L2(r), seed=2),
        "pgd:loss=margin": lambda r: partial(pgd, threat=fa.L2(r)),
        "fmn:radius=inf,steps=9": lambda r: partial(fa.attacks.fmn, threat=fa.L2(math.inf), steps=9),
    }
    calls = {name: make(0.3) for name, make in attacks.items()}
    table = fa.evaluate(trained, digits, calls, keep_samples=True)
    curves = said["measured"].pop("curves")
    assert timeless(said["measured"]) == timeless(table.to_dict())
    for said, (name, make) in zip(curves, attacks.items(), strict=True):
        form = {"minimum_norm": make(0)} if name.startswith("fmn") else {"attack_for_radius": make}
        curve = fa.accuracy_against_radius(trained, digits, radii=[0, 0.2, 0.4], **form)
        assert (said["label"], said["radii"]) == (name, [0, 0.2, 0.4])
        assert said["accuracy"] == curve.accuracy.tolist()
    for field, value in vars(table.samples).items():
        torch.testing.assert_close(load_tensors("all.safetensors")[0][field], value, rtol=1e-4, atol=1e-5)
    _, _, rule, *lines = fastadv(line).out.splitlines()
    names = ["none", "FGSM, L2 0.3", "PGD-3, L2 0.3, loss=margin", "FMN-9, L2, any radius", "worst of all"]
    cells = {name: cells for name, *cells in (re.split("  +", line) for line in lines[: len(names)])}
    assert (rule, [*cells]) == ("-" * len(rule), names)
    row = table["fgsm L2 0.3"]
    assert cells["FGSM, L2 0.3"][:3:2] == [f"{row.robust_accuracy:.1%}", f"{row.success_rate:.1%}"]
    assert cells["worst of all"][0] == f"{table.worst_case:.1%}"


def test_draws_of_evaluate_are_those_of_the_call(fastadv, net, trained, digits) -> None:
    line = f"evaluate {net} -n {COUNT} -a pgd:steps=3 --radius {RADIUS} --seed 1 --json --draws 3"
    said = fastadv(line).json
    attack = partial(fa.attacks.pgd, threat=fa.Linf(RADIUS), steps=3, seed=1)
    table = fa.evaluate(trained, digits, {"pgd:steps=3": attack}, draws=3, seed=1)
    assert timeless(said["measured"]["attacks"]) == timeless(table.to_dict()["attacks"])
    assert said["measured"]["worst_case"] == table.worst_case


def test_training_reports_what_the_model_does(fastadv, digits) -> None:
    line = "train -m small_cnn -o width=4 --data digits -n 200 --recipe pgd --norm l2 --radius 0.3 --steps 2"
    line += f" --step-size 0.2 --epochs 1 --test-samples {COUNT} --optimizer adam --learning-rate 0.01"
    line += " --weight-decay 0.001 --schedule step --augment shift --batch-size 50 --seed 5 --run-dir run"
    (report,) = fastadv(line, "--json").json["measured"]["epochs"]
    mine, written = SmallCNN(width=4, seed=5), SmallCNN(width=4)
    (epoch,) = fa.train.fit(
        mine, load("digits", "train", limit=200), fa.train.PGDTraining(fa.L2(0.3), steps=2, step_size=0.2),
        epochs=1, batch_size=50, optimizer="adam", learning_rate=0.01, augment="shift", seed=5,
        optimization=fa.train.Optimization(weight_decay=0.001, schedule="step"), test_set=digits,
        test_attacks={"PGD-10, L2 0.3": partial(fa.attacks.pgd, threat=fa.L2(0.3), steps=10, seed=5)},
    )  # fmt: skip
    for key in ("loss", "clean_accuracy", "robust_accuracy", "learning_rate"):
        assert report[key] == getattr(epoch, key), key
    load_weights(written, Path("run/model.safetensors"))
    for name, value in mine.state_dict().items():
        assert torch.equal(written.state_dict()[name], value), name


BALL = {"threat": fa.L2(0.8)}
SETS = {
    "non-robust": partial(construct.non_robust), "random-target": partial(construct.random_target, **BALL),
    "fixed-shift": partial(construct.fixed_shift, **BALL), "robust": partial(construct.robust),
}  # fmt: skip


@pytest.mark.parametrize("kind", SETS)
def test_construct_makes_the_set_of_the_call(fastadv, net, trained, kind) -> None:
    line = f"construct {kind} {net} -n 30 --steps 3 --step-size 0.3 --seed 4 --out s"
    fastadv(line + " --radius 0.8" * ("threat" in SETS[kind].keywords))
    expected = SETS[kind](trained, load("digits", "train", limit=30), steps=3, step_size=0.3, seed=4)
    written = load_constructed("s")
    assert torch.equal(written.y, expected.y)
    torch.testing.assert_close(written.x, expected.x, rtol=0, atol=1e-5)
