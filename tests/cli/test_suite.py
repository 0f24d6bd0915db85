"""`fastadv evaluate --suite robustbench`: which table is meant, and the entry that it writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.attacks import ATTACKS
from fastadv.data import ImageSet, _load
from fastadv.evaluation.robustbench import FIELDS, IMAGES
from fastadv.files import load_tensors

NET = "-m small_cnn -o width=2"
BUDGETS: list[Any] = []
FLAGS: list[str] = []


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """In place of CIFAR-10, 40 random images of its shape."""
    x = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = ImageSet(x, torch.arange(40) % 10, 10, "cifar10 test")
    monkeypatch.setitem(_load._DOWNLOADED, "cifar10", lambda root, split, download, limit: dataset)
    monkeypatch.setitem(IMAGES, "cifar10", len(dataset))
    return dataset


@pytest.fixture(autouse=True)
def attack(monkeypatch):
    """In place of AutoAttack, which takes long, FGSM; with the flags of FLAGS."""
    BUDGETS.clear()
    FLAGS.clear()

    def quick(
        model, x, y, threat, *, version: str = "standard", seed: int = 0, eot: int = 1, ids=None
    ) -> Any:
        BUDGETS.append((threat.norm, threat.radius, version, eot))
        return replace(fa.attacks.fgsm(model, x, y, threat, ids=ids), flags=tuple(FLAGS))

    monkeypatch.setitem(ATTACKS, "autoattack", replace(ATTACKS["autoattack"], run=quick))


def entry(fastadv, *more):
    done = fastadv(f"evaluate {NET} -d cifar10 --suite robustbench --robustbench models/e.json", *more)
    assert "entry in models/e.json" in done.out
    return json.loads(Path("models/e.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "radius", "eps"), [("linf", 8 / 255, "8/255"), ("l2", 0.5, "0.5")])
def test_the_table_sets_the_budget_and_the_entry_says_what_was_measured(fastadv, images, norm, radius, eps):
    fields = entry(fastadv, "--norm", norm, "--out", "adv.safetensors")
    assert [(norm, radius, "standard", 1)] == BUDGETS
    model = fa.models.create("small_cnn", shape=(3, 32, 32), classes=10, seed=0, width=2)
    threat = (fa.L2 if norm == "l2" else fa.Linf)(radius)
    x, x_adv = images.x / 255, load_tensors("adv.safetensors")[0]["x_adv"]
    assert threat.contains(x_adv, x).all()
    clean, moved = (model.eval()(points).argmax(1) == images.y for points in (x, x_adv))
    assert list(fields) == list(FIELDS)
    assert fields == dict.fromkeys(FIELDS) | {
        "dataset": "cifar10",
        "architecture": "small_cnn",
        "eps": eps,
        "clean_acc": f"{100 * clean.double().mean():.2f}",
        "autoattack_acc": f"{100 * (clean & moved).double().mean():.2f}",
        "unreliable": False,
    }
    FLAGS.append("doubtful: it has a reason")
    assert entry(fastadv)["unreliable"] is True


@pytest.mark.slow
def test_the_footnote_says_what_is_to_know_of_the_images_and_which_gradients_were_replaced(
    fastadv, folder, images
):
    images.note = "copies of images"
    assert entry(fastadv)["footnote"] == "copies of images"
    (folder / "replaced.py").write_text(
        "import fastadv as fa\n"
        "def net(width):\n"
        "    net = fa.models.SmallCNN((3, 32, 32), width=width)\n"
        "    return fa.models.bpda(net, {'features.2': 'identity'})\n"
    )
    assert entry(fastadv, "-m", "replaced:net")["footnote"] == "BPDA: features.2 (identity); copies of images"


@pytest.mark.slow
def test_too_few_images_are_no_result_of_robustbench(fastadv, refused, monkeypatch):
    """A folder with some of them, or --samples: no entry, and the report says how many are missing."""
    monkeypatch.setitem(IMAGES, "cifar10", 1000)
    line = f"evaluate {NET} -d cifar10 --suite robustbench"
    missing = "RobustBench's accuracies are of 1,000 images of cifar10, got 40: 960 are missing"
    refused(f"{line} --robustbench e.json", f"{missing}; --data-dir names the folder")
    refused(f"{line} -n 2 --robustbench e.json", "missing; leave out --samples")
    assert f"\nnot a result of RobustBench: {missing}\n" in fastadv(line).out
    monkeypatch.setitem(IMAGES, "cifar10", 12)
    assert "got 40: these are others" in fastadv(line).out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-d cifar10 -a pgd", "--attack is set by --suite robustbench"),
        ("-d cifar10 --radius 0.1", "--radius is set by --suite robustbench"),
        ("-d cifar100 --norm l2", "no table for cifar100 in l2; it has --data cifar10 --norm linf, "),
        ("-d cifar10c", "no table for cifar10c in linf"),
        ("-d imagenet", "imagenet:preprocessing=Res256Crop224"),
        ("-d imagenet:preprocessing=none,ids=a.txt", "has its own images"),
    ],
)
def test_what_the_suite_does_not_have_is_refused(refused, options, says):
    refused(f"evaluate {NET} --suite robustbench {options} --robustbench e.json", says)
    says = "--robustbench writes the result of --suite robustbench: give that, too"
    refused(f"evaluate {NET} -d cifar10 -a autoattack --radius 8/255 --robustbench e.json", says)
