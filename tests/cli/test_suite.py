"""`fastadv evaluate --suite robustbench`: which table is meant, and what it writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.attacks import ATTACKS
from fastadv.data import ImageSet, _load
from fastadv.evaluation.robustbench import IMAGES

NET = "-m small_cnn -o width=2"


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """In place of CIFAR-10, 40 random images of its shape."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=draw)
    made = ImageSet(x, torch.arange(40) % 10, 10, "cifar10 test")
    monkeypatch.setattr(_load, "cifar10", lambda root, split, download, limit: made)
    monkeypatch.setitem(IMAGES, "cifar10", len(made))
    return made


@pytest.fixture(autouse=True)
def budgets(monkeypatch):
    """In place of AutoAttack, which takes long, FGSM; the budgets that it was given."""
    given: list[tuple[str, float, str]] = []

    def quick(
        model, x, y, threat, *, version: str = "standard", seed: int = 0, eot: int = 1, ids=None
    ) -> Any:
        given.append((threat.norm, threat.radius, version))
        return fa.attacks.fgsm(model, x, y, threat, ids=ids)

    monkeypatch.setitem(ATTACKS, "autoattack", replace(ATTACKS["autoattack"], run=quick))
    return given


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "radius", "eps"), [("", 8 / 255, "8/255"), (" --norm l2", 0.5, "0.5")])
def test_the_table_sets_the_budget(fastadv, budgets, images, norm, radius, eps):
    line = f"evaluate {NET} -d cifar10 --suite robustbench{norm} --robustbench e.json --external adv.pt"
    done = fastadv(line)
    assert budgets == [("l2" if "l2" in norm else "linf", radius, "standard")]
    told = json.loads(Path("e.json").read_text())
    assert (told["dataset"], told["eps"]) == ("cifar10", eps)
    model = fa.models.create("small_cnn", shape=(3, 32, 32), classes=10, seed=0, width=2)
    threat = (fa.L2 if "l2" in norm else fa.Linf)(radius)
    x, x_adv = images.x / 255, torch.load("adv.pt", weights_only=True)
    assert x_adv.dtype == torch.float32
    assert threat.contains(x_adv, x).all()
    held = (torch.stack([model.eval()(points).argmax(1) for points in (x, x_adv)]) == images.y).all(0)
    assert f"{100 * held.double().mean():.2f}" == told["autoattack_acc"]
    assert "adversarial images in adv.pt" in done.out


@pytest.mark.slow
def test_what_is_to_know_of_the_images_is_in_the_footnote(fastadv, images):
    images.note = "copies of images"
    line = f"evaluate {NET} -d cifar10 --suite robustbench --robustbench e.json"
    for more, footnote in (("", "copies of images"), (" --about footnote=mine", "mine; copies of images")):
        fastadv(line + more)
        assert json.loads(Path("e.json").read_text())["footnote"] == footnote


@pytest.mark.slow
def test_too_few_images_are_no_result_of_robustbench(fastadv, refused, monkeypatch):
    """A folder with some of them, or --samples: no entry, and the report says how many are missing."""
    monkeypatch.setitem(IMAGES, "cifar10", 1000)
    line = f"evaluate {NET} -d cifar10 --suite robustbench"
    missing = "RobustBench's accuracies are of 1,000 images of cifar10, got 40: 960 are missing"
    refused(f"{line} --robustbench e.json", f"{missing}; --data-dir names the folder")
    assert f"\nnot a result of RobustBench: {missing}\n" in fastadv(line).out
    card = fastadv(f"{line} -n 9 --json").json
    assert card["measured"]["lacks"].endswith("got 9: 991 are missing")
    monkeypatch.setitem(IMAGES, "cifar10", 12)
    assert "got 40: these are others" in fastadv(line).out
    monkeypatch.setitem(IMAGES, "cifar10", 40)
    assert "not a result" not in fastadv(line).out
    # other images are in no table
    assert "not a result" not in fastadv(f"evaluate {NET} -d cifar10 -a fgsm --radius 0.1 -n 9").out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-d cifar10 -a pgd", "runs autoattack: leave out --attack"),
        ("-d cifar10 --radius 0.1", "sets the budget: leave out --radius"),
        ("-d cifar10 --steps 5", "leave out --steps"),
        ("-d cifar100 --norm l2", "no table for cifar100 in l2; it has --data cifar10 --norm linf, "),
        ("-d svhn", "no table for svhn in linf; it has --data cifar10 --norm linf, "),
        ("-d cifar10c", "no table for cifar10c in linf"),
        ("-d cifar10 --split train", "--split is set by --suite robustbench"),
        ("-d imagenet", "give --data imagenet:preprocessing=Res256Crop224"),
        ("-d imagenet:preprocessing=none,ids=a.txt", "leave out ids"),
        ("-d cifar10 --external adv.safetensors", "expected the name of a torch file"),
        ("-d cifar10 --about venue=A", "give --robustbench too"),
    ],
)
def test_what_the_suite_does_not_have_is_refused(refused, options, says):
    refused(f"evaluate {NET} --suite robustbench {options}", says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-d cifar100", "cifar100: expected cifar-100-python/ below data, got none"),
        ("-d imagenet:preprocessing=Crop288", "expected the 1000 class folders"),
    ],
)
def test_a_suite_without_its_data_says_what_to_do(refused, monkeypatch, options, says):
    from fastadv._torchvision import datasets

    def offline(*arguments: Any, **more: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "CIFAR100", offline)
    Path("data").mkdir()
    refused(f"evaluate {NET} --suite robustbench {options} --data-dir data", says)
