"""Each command does its work on a few digits, and its JSON is one document."""

import pytest
import torch
from PIL import Image

from fastadv.data import load_constructed

SOME = "-n 60"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["robust", "fixed-shift"])
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
@pytest.mark.parametrize("command", ["attack -a pgd", "evaluate -a pgd", "construct fixed-shift"])
def test_precisions(fastadv, refused, net, command):
    line = f"{command} {net} {SOME} --steps 1 --out made" + " --radius 0.3" * ("construct" not in command)
    refused(f"{line} --precision tf32 --device cpu", "GPU of compute capability 8 or more for 'tf32'")
    config = fastadv(f"{line} --precision fp16 --json").json["config"]
    told = config["model"]["frozen"] if "construct" in command else config
    assert told["precision"] == "fp16"


def test_models_of_ones_own(fastadv, folder):
    (folder / "ownnet.py").write_text(
        "from torch import nn\ndef net(classes, width=8):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    done = fastadv(f"evaluate -m ownnet:net -o width=3 --data digits {SOME} --radius 0.1 -a fgsm --json")
    assert done.err == ""
    torch.save({"1.weight": torch.zeros(10, 64), "1.bias": torch.arange(10.0)}, "w.pt")
    done = fastadv(f"evaluate -m ownnet:net -w w.pt --data digits {SOME} --radius 0.1 -a fgsm --json")
    assert done.json["measured"]["clean_accuracy"] == pytest.approx(0.1, abs=0.05)  # always nine
