"""What the commands print and write equals what the library's own calls give."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch

import fastadv as fa
from fastadv.attacks.core.card import REGISTRY
from fastadv.cli._output import PIPE_WIDTH, print_table
from fastadv.data import load, load_constructed
from fastadv.models import SmallCNN
from fastadv.runs.files import load_tensors
from tests.cli.conftest import timeless

HEAD = ["attack", *(f"accuracy at {radius}" for radius in range(12))]


def test_a_pipe_gets_each_figure_whole(capsys):
    figures = [f"12,345,67{place}" for place in range(12)]
    print_table("title", [HEAD, ["autoattack-standard", *figures]])
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert len(lines[1]) > PIPE_WIDTH
    assert all(text in lines[2] for text in HEAD)
    assert all(text in lines[4] for text in figures)


def test_a_pipe_gets_prose_in_lines(capsys):
    words = " ".join(["word"] * 60)
    print_table("title", [["name", "what it does"], ["pgd", words]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= PIPE_WIDTH
    assert sum(line.count("word") for line in lines) == 60


COUNT = 60


@pytest.fixture
def digits():
    """The digits that the commands see; few of them have the label 0."""
    return load("digits", "test", limit=COUNT)


@pytest.mark.slow
@pytest.mark.parametrize("strongest", [False, True])
def test_attack_writes_what_the_attack_returns(fastadv, folder, net, trained, digits, strongest):
    more = f"pgd:restarts=2,stop_early={str(not strongest).lower()}"
    line = f"attack {net} -n {COUNT} --radius 2/25 --steps 4 --step-size 0.03 -a {more}"
    line += " --seed 3 --batch-size 25"
    done = fastadv(line, "--out", "adv.safetensors", "--json")
    budget = {"steps": 4, "step_size": 0.03, "restarts": 2, "seed": 3}
    pgd = partial(fa.attacks.pgd, threat=fa.Linf(0.08), stop_early=not strongest, **budget)
    expected = pgd(trained, digits.x, digits.y)
    written, metadata = load_tensors(folder / "adv.safetensors")
    assert torch.equal(written["x"], digits.x)
    assert torch.equal(written["y"], digits.y)
    assert written["ids"].tolist() == list(range(COUNT))
    for name in ("success", "status", "zero_gradient"):
        assert torch.equal(written[name], getattr(expected, name)), name
    for name in ("x_adv", "loss", "distance"):
        torch.testing.assert_close(written[name], getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert 0 < int(expected.success.sum()) < COUNT
    told = done.json
    assert json.loads(metadata["card"]) == told
    table = fa.evaluate(trained, digits, {more: pgd}, batch_size=25)
    assert timeless(told["measured"]) == timeless(table.to_dict())
    assert (budget | {"radius": 0.08, "norm": "linf"}).items() <= told["config"].items()
    assert told["config"]["stop_early"] is not strongest
    assert (told["kind"], told["format"]) == ("attack", 1)
    assert "60 images of digits test" in fastadv(line).out


@pytest.mark.slow
def test_evaluate_equals_the_library(fastadv, folder, net, trained):
    line = f"evaluate {net} -n {COUNT} --norm l2 --radius 0.3 --steps 3 --seed 2"
    line += " -a fgsm -a pgd:loss=margin --radii 0.4,0,0.2 --split train"
    told, digits = fastadv(line, "--json").json, load("digits", "train", limit=COUNT)
    attacks = {
        "fgsm L2 0.3": lambda r: partial(fa.attacks.fgsm, threat=fa.L2(r), seed=2),
        "pgd:loss=margin": lambda r: partial(fa.attacks.pgd, threat=fa.L2(r), steps=3, loss="margin", seed=2),
    }
    table = fa.evaluate(trained, digits, {name: make(0.3) for name, make in attacks.items()})
    curves = told["measured"].pop("curves")
    assert timeless(told["measured"]) == timeless(table.to_dict())
    for told, (name, make) in zip(curves, attacks.items(), strict=True):
        curve = fa.accuracy_against_radius(trained, digits, make, [0, 0.2, 0.4])
        own = {"label": name, "norm": "l2", "radii": [0, 0.2, 0.4], "accuracy": curve.accuracy.tolist()}
        assert own.items() <= told.items()
    printed = fastadv(line).out
    rows = [line.split("│") for line in printed.splitlines() if line.startswith("│")]
    cells = {line[1].strip(): line for line in rows}
    assert list(cells) == ["none", "FGSM, L2 0.3", "PGD-3, L2 0.3, loss=margin", "worst of all"]
    row = table["fgsm L2 0.3"]
    assert [cell.strip() for cell in cells["FGSM, L2 0.3"][2:6]] == [
        f"{row.robust_accuracy:.1%}",
        f"{row.success_rate:.1%}",
        f"{row.forwards:,}",
        f"{row.backwards:,}",
    ]
    assert cells["worst of all"][2].strip() == f"{table.worst_case:.1%}"
    assert "accuracy at each radius, fgsm L2 0.3: 0: " in printed


@pytest.mark.slow
def test_training_reports_what_the_model_does(fastadv, folder, digits):
    line = "train -m small_cnn -o width=4 --data digits -n 200 --recipe pgd --norm l2 --radius 0.3 --steps 2"
    line += f" --step-size 0.2 --epochs 1 --test-samples {COUNT} --optimizer adam --learning-rate 0.01"
    line += " --weight-decay 0.001 --schedule step --augment shift --batch-size 50 --seed 5 --run-dir run"
    (report,) = fastadv(line, "--json").json["measured"]["epochs"]
    mine = SmallCNN(width=4, seed=5)
    recipe = fa.train.PGDTraining(fa.L2(0.3), steps=2, step_size=0.2)
    attack = partial(fa.attacks.pgd, threat=fa.L2(0.3), steps=10, seed=5)
    optimization = fa.train.Optimization(weight_decay=0.001, schedule="step")
    (own,) = fa.train.fit(
        mine, load("digits", "train", limit=200), recipe, epochs=1, batch_size=50, optimizer="adam",
        learning_rate=0.01, optimization=optimization, augment="shift", seed=5, test_set=digits,
        test_attacks={"pgd L2 0.3": attack},
    )  # fmt: skip
    for key in ("loss", "clean_accuracy", "robust_accuracy", "learning_rate"):
        assert report[key] == getattr(own, key), key
    written = SmallCNN(width=4)
    fa.models.load_weights(written, folder / "run" / "model.safetensors")
    for name, value in mine.state_dict().items():
        assert torch.equal(written.state_dict()[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["non-robust", "random-target"])
def test_construct_equals_the_library(fastadv, folder, net, trained, kind):
    options = "--radius 0.8" if kind == "random-target" else ""
    line = (
        f"construct {kind} {net} -n 30 --steps 3 --step-size 0.3 --seed 4 --shard-size 20 --out s {options}"
    )
    fastadv(line)
    base = load("digits", "train", limit=30)
    if kind == "non-robust":
        own = fa.data.construct.non_robust(trained, base, steps=3, step_size=0.3, seed=4)
    else:
        own = fa.data.construct.random_target(
            trained, base, threat=fa.L2(0.8), steps=3, step_size=0.3, seed=4
        )
    made = load_constructed(folder / "s")
    assert torch.equal(made.y, own.y)
    torch.testing.assert_close(made.x, own.x, rtol=0, atol=1e-5)
    assert len(list((folder / "s").glob("*.safetensors"))) == 2


def test_departures_name_attacks_and_rows_of_the_table_of_parity():
    root = Path(__file__).resolve().parents[2]
    pages = ("bench/results/parity.md", "docs/departures.md")
    table, departures = ((root / page).read_text() for page in pages)
    rows = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")}
    named = re.findall(r"Row: (.*)\.$", departures, re.MULTILINE)
    assert len(named) > 20
    assert set(named) <= rows
    assert set(re.findall(r"^## (\w+)$", departures, re.MULTILINE)) <= set(REGISTRY)
