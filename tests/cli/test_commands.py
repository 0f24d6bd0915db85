"""Each command does its work on a few digits, and its JSON is one document."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import fastadv as fa
from fastadv.attacks.core.card import REGISTRY
from fastadv.cli._output import print_table
from fastadv.data import load_constructed
from fastadv.data.corruption.weather import PHOTOGRAPHS
from fastadv.files import load_tensors

from .conftest import timeless

SOME = "-n 60"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["robust", "fixed_shift"])
def test_construct_then_train_on_it(fastadv, folder, net, kind):
    line = f"construct {kind} {net} {SOME} --steps 2 --out sets/a"
    assert fastadv(f"{line} --json").json["measured"]["samples"] == 60
    assert len(load_constructed(folder / "sets" / "a")) == 60
    with Image.open(folder / "sets" / "a" / "thumbnails.png") as picture:
        assert min(picture.size) > 500
    written = (folder / "sets" / "a" / "shard-00000.safetensors").stat().st_mtime_ns
    assert "images of a label" in fastadv(line).out
    assert (folder / "sets" / "a" / "shard-00000.safetensors").stat().st_mtime_ns == written
    done = fastadv("train -m softmax --data sets/a --test-data digits --test-samples 20 --epochs 1 --json")
    assert done.json["measured"]["epochs"][0]["clean_accuracy"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate -a pgd", "construct fixed-shift"])
def test_precisions(fastadv, net, command):
    out = "made" if "construct" in command else "made.safetensors --radius 0.3"
    line = f"{command} {net} {SOME} --steps 1 --out {out}"
    config = fastadv(f"{line} --precision bf16 --json").json["config"]
    settings = config["model"]["frozen"] if "construct" in command else config
    assert settings["precision"] == "bf16"


def test_models_of_ones_own(fastadv, folder):
    (folder / "ownnet.py").write_text(
        "from torch import nn\ndef net(classes, width=8):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    done = fastadv(f"evaluate -m ownnet:net -o width=3 --data digits {SOME} --radius 0.1 -a fgsm --json")
    assert done.err == ""
    line = f"evaluate -m ownnet:net --data digits {SOME} --radius 0.1 -a fgsm --json"
    again, other = (fastadv(f"{line} --seed {seed}").json["measured"]["clean_accuracy"] for seed in (0, 1))
    assert again == done.json["measured"]["clean_accuracy"] != other
    torch.save({"1.weight": torch.zeros(10, 64), "1.bias": torch.arange(10.0)}, "w.pt")
    done = fastadv(f"evaluate -m ownnet:net -w w.pt --data digits {SOME} --radius 0.1 -a fgsm --json")
    assert done.json["measured"]["clean_accuracy"] == pytest.approx(0.1, abs=0.05)  # always nine


OWN = """
import torch
from fastadv import data, models

whole = models.create("softmax", shape=(1, 8, 8), seed=1)

def service(x):
    with torch.no_grad():
        return whole(x)

def make():
    return service

def images(split, limit=None):
    held = data.load("digits", split, limit=limit)
    return held.x, held.y

def test_images():
    return images("test")
"""


@pytest.mark.filterwarnings("ignore")  # of torch.jit
def test_functions_modules_and_torchscript_are_models(fastadv, refused, folder):
    (folder / "minenet.py").write_text(OWN)
    net = fa.models.create("softmax", shape=(1, 8, 8), seed=1).eval()
    torch.jit.trace(net, torch.rand(2, 1, 8, 8)).save("whole.pt")
    torch.save(net.state_dict(), "w.pt")
    line = f"evaluate --data digits {SOME} --radius 0.1 -a square:queries=20"
    names = ("minenet:service", "minenet:make", "minenet:whole", "whole.pt")
    shares = [fastadv(f"{line} -m {name} --json").json["measured"]["worst_case"] for name in names]
    assert len({*shares}) == 1
    assert shares[0] == fastadv(f"{line} -m softmax -w w.pt --json").json["measured"]["worst_case"]
    blind = fastadv(
        f"evaluate --data digits {SOME} --radius 0.1 -a pgd -m minenet:service --fail-under robust=0", code=4
    )
    assert "robust accuracy is not known, expected at least 0. No attack could run." in blind.err
    refused(
        f"{line} -m w.pt", "a TorchScript file, as torch.jit.save writes it, got one that does not read", 1
    )
    refused(f"{line} -m softmax -w whole.pt", "a whole model: give it as --model", 1)
    refused(f"{line} -m minenet:service -w w.pt", "--weights has no effect on minenet:service, a function")
    refused("train --data digits -m minenet:make --epochs 1", "--model: expected a torch.nn.Module, got func")


def test_data_of_ones_own(fastadv, folder):
    (folder / "mineset.py").write_text(OWN)
    line = f"train -m softmax {SOME} --epochs 1 --json --data"
    done = fastadv(f"{line} mineset:images").json
    known = fastadv(f"{line} digits").json
    assert done["config"]["data"]["name"] == "mineset:images train"
    assert timeless(done["measured"]) == timeless(known["measured"])
    assert fastadv(f"{line} mineset:test_images").json["measured"]["epochs"][0]["clean_accuracy"] is None
    line = f"evaluate -m softmax --radius 0.1 -a fgsm {SOME} --json --data"
    own, known = (fastadv(f"{line} {name}").json["measured"] for name in ("mineset:images", "digits"))
    assert own["worst_case"] == known["worst_case"]
    told = fastadv(f"construct robust -m softmax {SOME} --data mineset:images --steps 1 --out made").out
    assert "--data made --test-data mineset:images" in told


def test_a_table_is_printed_whole_and_without_markup(capsys):
    head = ["attack", *(f"accuracy at {radius}" for radius in range(12))]
    figures = [f"12,345,67{place}" for place in range(12)]
    print_table("title", [head, ["autoattack [bold]", *figures]], [None, "a note"])
    title, first, _, line, note = capsys.readouterr().out.splitlines()
    assert (title, first.split("  ")[0], note) == ("title", "attack", "a note")
    assert line.split("  ")[0] == "autoattack [bold]"
    assert line.split()[-12:] == figures


def test_departures_name_attacks_and_rows_of_the_table_of_parity():
    pages = ("bench/results/parity.md", "docs/departures.md")
    table, departures = ((ROOT / page).read_text() for page in pages)
    rows = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")}
    named = re.findall(r"Row: (.*)\.$", departures, re.MULTILINE)
    assert len(named) > 20
    assert set(named) <= rows
    assert set(re.findall(r"^## (\w+)$", departures, re.MULTILINE)) <= set(REGISTRY)


# but that for AttackBench, which tests/adapters/test_attackbench.py runs
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {ROOT / "examples" / "11_attackbench.py"})


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys, folder, monkeypatch):
    options = ["--only=small_cnn"] if "argparse" in path.read_text() else []
    monkeypatch.setattr(sys, "argv", [str(path), *options])
    monkeypatch.setenv("FASTADV_DATA", str(folder))
    (folder / "frost").mkdir()
    for name in PHOTOGRAPHS:
        Image.new("RGB", (40, 40), "gray").save(folder / "frost" / name)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.usefixtures("few_digits")
def test_the_commands_about_training_run(fastadv, folder):
    page, paper = ((ROOT / "docs" / name).read_text() for name in ("training.md", "papers/goodfellow2014.md"))
    blocks = [part.partition("\n```")[0] for part in (page + paper).split("```sh\n")[1:]]
    lines = [line for block in blocks for line in block.replace("\\\n   ", "").splitlines()]
    name, _, value = next(line for line in lines if line.startswith("NETS=")).partition("=")
    lines = [line.replace(f"${name}", value) for line in lines if line.startswith("fastadv ")]
    assert len(lines) == 5
    for line in lines:
        fastadv(line.removeprefix("fastadv "))
    names = sorted(path.name for path in (folder / "runs" / "robust").iterdir())
    assert names == [
        "best.safetensors", "checkpoint.safetensors", "ema.safetensors", "model.safetensors", "report.jsonl"
    ]  # fmt: skip
    assert all(f"`{name}`" in page for name in names)


def test_examples_are_written_with_their_card(fastadv, net, refused):
    fastadv(f"evaluate {net} {SOME} --radius 25.5/255 -a fgsm --out adv.safetensors")
    held, metadata = load_tensors("adv.safetensors")
    assert json.loads(metadata["card"])["config"]["attacks"][0]["radius"] == 0.1
    assert len(held["x_adv"]) == len(held["y"]) > 0
    assert float(abs(held["x_adv"] - held["x"]).max()) == pytest.approx(0.1)
    refused(f"evaluate {net} --radius 0.1 --out adv.npz", "ending in .safetensors")
