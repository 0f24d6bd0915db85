"""`fastadv study goodfellow`: what it prints, writes and refuses, of the study and of a picture."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

import fastadv as fa
from fastadv.cli import _study_goodfellow
from fastadv.models import save_weights
from fastadv.studies.goodfellow2014 import figures
from fastadv.studies.goodfellow2014.panda import panda
from tests.cli.conftest import Done

Command = Callable[..., Done]
NETS = "fastadv.studies.goodfellow2014.models"
TINY = "study goodfellow --scale tiny --run-dir run"


@pytest.fixture
def few(monkeypatch):
    """A few of the digits, which must be what tiny asks for."""

    def load(name, split, data_dir):
        assert (name, data_dir) == ("digits", None)
        return fa.data.load("digits", split, limit=150 if split == "train" else 100)

    monkeypatch.setattr(_study_goodfellow, "load_data", load)


@pytest.mark.slow
def test_two_parts_of_the_study(fastadv, refused, few, folder):
    done = fastadv(f"{TINY} --parts", "agreement, weights,agreement")
    for text in ("Agreement", "Weights", "Networks", "pixels that a unit looks at", "84.60%", "weights.png",
                 "100 test images", "report.md"):  # fmt: skip
        assert text in done.out
    assert done.out.count("rbf says softmax's class where both are wrong") == 1
    assert "Rubbish" not in done.out
    told = fastadv(f"{TINY} --parts agreement --json").json
    assert told == json.loads((folder / "run" / "results.json").read_text())
    assert told["config"]["parts"] == ["agreement"]
    assert set(told["measured"]["nets"]) == {"maxout", "softmax", "rbf"}
    refused(f"{TINY} --parts agreement --seed 1", "got one with another seed")


def test_bad_arguments(refused, folder):
    for options, text in {
        "--scale huge": "--scale is one of tiny, cpu, paper, got huge",
        "--scale tiny --parts fgsm,fgms": "parts: expected some of fgsm",
        "--model softmax": "--model goes with --image",
        "--radius 1/5": "--radius goes with --image",
        "--image a.png": "--image needs the --model",
        "--image a.png -m softmax --parts fgsm": "--parts has no effect with --image",
        "--image a.png -m softmax --shape 8,8": "--shape: expected channels, height and width",
        "--image a.png -m softmax --shape 1,8,²": "--shape: expected channels, height and width",
        "--image a.png -m softmax": "a.png: expected an image file, got none",
        "--image a.png -m softmax --names none.txt": "--names: expected a text file",
    }.items():
        refused(f"study goodfellow {options}", text)
    assert list(folder.iterdir()) == []


def net(name, seed=1):
    """Random weights, large enough for every class to be another at another image."""
    model = fa.models.create(name, shape=(1, 8, 8), classes=3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture
def picture(folder):
    """Saved as digit.png; what a model gets of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "digit.png")
    return torch.from_numpy(pixels)[None].float() / 255


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", f"{NETS}:RBF"])
def test_a_picture_and_a_model(name, fastadv, folder, picture):
    model = net(name)
    save_weights(model, folder / "net.safetensors")
    (folder / "names.txt").write_text("cat\ndog\npanda\n")
    before = (folder / "digit.png").read_bytes()
    line = f"study goodfellow --image digit.png -m {name} -w net.safetensors --shape 1,8,8 --classes 3"
    told = fastadv(f"{line} --json --radius 1/5 --names names.txt --run-dir .").json
    loss = "bce" if "RBF" in name else "ce"
    wanted, _ = panda(model, picture, radius=0.2, names=["cat", "dog", "panda"])
    rest = {"image": "digit.png", "changed": "", "figure": "digit_fgsm.png"}
    assert told == {**wanted, **rest}
    assert told["loss"] == loss
    assert (folder / "digit_fgsm.png").stat().st_size > 5000
    assert (folder / "digit.png").read_bytes() == before
    done = fastadv(line)
    for text in ("digit.png", "adversarial", "L-infinity radius 0.25", "goodfellow2014/digit_fgsm.png"):
        assert text in done.out
    assert "untrained" not in done.err


def test_what_is_said_of_a_picture(fastadv, folder, picture, monkeypatch):
    monkeypatch.setattr(figures, "panda", lambda *given: None)
    line = "study goodfellow --image digit.png -m small_cnn -o width=2"
    done = fastadv(f"{line} --shape 3,4,6")
    for text in ("L-infinity radius 0.007", "the picture was resized from 8x8 to 4x6, its center of 5x8"):
        assert text in done.out
    assert "untrained" in done.err
    seeds = [fastadv(f"{line} --shape 1,8,8 --json --seed {seed}").json for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    flat = fa.models.create("softmax", shape=(1, 8, 8))
    for weight in flat.parameters():
        weight.data.zero_()
    save_weights(flat, folder / "flat.safetensors")
    still = fastadv("study goodfellow --image digit.png -m softmax --shape 1,8,8 -w flat.safetensors")
    assert "the gradient is 0 everywhere, so nothing moved" in still.out


def test_what_does_not_fit(refused, folder, picture):
    (folder / "text.png").write_text("no picture")
    (folder / "names.txt").write_text("cat\ndog\n")
    shape = "--shape 1,8,8 --classes 3"
    for options, code, text in (
        (f"--image text.png -m softmax {shape}", 1, "text.png: expected a whole image file"),
        (f"--image digit.png -m softmax {shape} --names names.txt", 2, "--names: expected 3 lines"),
        (f"--image digit.png -m softmax {shape} --radius=-1", 2, "radius"),
        ("--image digit.png -m softmax --shape 2,8,8", 2, "gray or color"),
    ):
        refused(f"study goodfellow {options}", text, code)
    assert not (folder / "goodfellow2014").exists()
