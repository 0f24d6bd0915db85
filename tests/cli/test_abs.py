"""`fastadv abs`: a model trained, measured, bounded, attacked and drawn, and what it says of wrong usage."""

import json
from pathlib import Path

import pytest

from fastadv.cli import main
from fastadv.models import ABS

COMMANDS = ("train", "infer", "bound", "attack", "show", "distal")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("abs")
    line = f"abs train --data digits --run-dir {folder} --epochs 6 --beta 3,0.3 --prior-samples 200 --calibration 50 --test-samples 50 --json"
    assert main(line.split()) == 0
    return str(folder / "model.safetensors")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(fastadv, command):
    done = fastadv(f"abs {command} --help")
    assert done.code == 0
    assert f"Example: fastadv abs {command}" in done.out


def test_train_measures_and_resumes(fastadv, folder):
    line = "abs train --data digits --samples 200 --run-dir run --epochs 2 --prior-samples 50 --calibration 20 --test-samples 20"
    done = fastadv(line, "--json")
    assert done.code == 0
    found = json.loads(done.out)["measured"]
    assert found["training"]["loss"] > 0
    assert {"training", "abs", "binary_abs"} <= found.keys()
    again = fastadv(line, "--resume")
    assert again.code == 0
    assert "model in run/model.safetensors" in again.out
    assert ABS.load("run/model.safetensors").card["config"]["epochs"] == 2
    stuck = fastadv(line)
    assert stuck.code == 2
    assert "resume" in stuck.err


def test_infer(fastadv, model):
    done = fastadv(f"abs infer -m {model} --data digits --samples 40 --out found.safetensors --json")
    assert done.code == 0
    measured = json.loads(done.out)["measured"]
    assert measured["accuracy"] > 0.8
    assert Path("found.safetensors").exists()
    assert (
        fastadv(f"abs infer -m {model} --data digits --samples 20 --prune --bf16 --binary --steps 5").code
        == 0
    )


def test_bound_and_attack_agree(fastadv, model):
    bound = json.loads(fastadv(f"abs bound -m {model} --data digits --samples 15 --json").out)["measured"]
    tight = json.loads(fastadv(f"abs bound -m {model} --data digits --samples 15 --tight --json").out)[
        "measured"
    ]
    attack = json.loads(
        fastadv(f"abs attack -m {model} --data digits --samples 15 --schedule line_search --json").out
    )["measured"]
    assert 0 < bound["median"] <= tight["median"] < attack["median_distance"]
    assert "L∞" in fastadv(f"abs bound -m {model} --data digits --samples 3 --norm linf").out


def test_pictures(fastadv, model):
    done = fastadv(f"abs show -m {model} --data digits --index 3 --out seen.png --json")
    assert done.code == 0
    assert len(json.loads(done.out)["loss"]) == 10
    assert Path("seen.png").read_bytes().startswith(b"\x89PNG")
    assert fastadv(f"abs distal -m {model} --classes 1,3 --steps 3 --out distal.svg").code == 0
    assert "<svg" in Path("distal.svg").read_text()


def test_wrong_usage(fastadv, model):
    for line, code, word in (
        ("abs infer -m nowhere --data digits", 1, "neither"),
        (f"abs show -m {model} --data digits --index 3", 2, "out"),
        (f"abs distal -m {model} --classes 12 --out d.png", 2, "classes 0 to 9"),
        ("abs train --data digits --run-dir r --beta 3", 2, "FROM,TO"),
        (f"abs bound -m {model} --data digits --starts 999 --samples 2", 2, "starts"),
    ):
        done = fastadv(line)
        assert done.code == code, (line, done)
        assert word in done.err
        assert len(done.err.strip().splitlines()) == 1
