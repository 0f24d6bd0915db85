"""The table of RobustBench's zoo: names, published figures, and the layout of every file."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from fastadv.data.published import PREPROCESSINGS
from fastadv.models import create, robustbench_entries
from fastadv.models.zoo import find, layout
from tests.refusals import refuses

from .conftest import TIMM, bare

# seals of the names and shapes in each kind of file, made from the zoo's own code, by the package
# `robustbench`, with tests/models/robustbench_zoo/peer.py of the versions up to commit ba4b0c27
LAYOUTS = Path(__file__).with_name("layouts.json")
ENTRIES = robustbench_entries()


def test_it_holds_four_leaderboards_without_a_name_twice():
    assert Counter(entry.path.rpartition("/")[0] for entry in ENTRIES) == {
        "cifar10/Linf": 59,
        "cifar10/L2": 19,
        "cifar100/Linf": 31,
        "imagenet/Linf": 24,
    }
    assert len({entry.path for entry in ENTRIES}) == len(ENTRIES)


def test_figures_and_constants_are_possible():
    for entry in ENTRIES:
        assert entry.clean is not None
        assert entry.robust is not None
        assert (entry.best_known or entry.robust) <= entry.robust < entry.clean <= 100, entry.path
        assert entry.stored <= (entry.constants is not None), entry.path
        # the Gowal, Rebuffi and Wang families normalize with constants that their files do not hold
        assert entry.net.name.startswith("dm_") <= (entry.constants is not None and not entry.stored)


def test_images_and_figures_of_imagenet_are_those_of_its_leaderboard():
    entries = [entry for entry in ENTRIES if entry.dataset == "imagenet"]
    for entry in entries:
        size, _, crop = PREPROCESSINGS[entry.preprocessing]
        assert entry.shape == (3, *([crop] * 2 if crop else size))
    assert {entry.radius for entry in entries} == {4 / 255}
    # sums over its rows of these networks
    assert sum(entry.clean for entry in entries) == pytest.approx(1726.86)
    assert sum(entry.robust for entry in entries) == pytest.approx(1055.66)
    best = find("Liu2023Comprehensive_Swin-L")
    assert (best.clean, best.robust, best.preprocessing) == (78.92, 59.56, "BicubicRes256Crop224")
    assert find("imagenet/Wong2020Fast").shape == (3, 288, 288)
    xcits = [find(f"Debenedetti2022Light_XCiT-{size}12").net.options for size in "ML"]
    assert xcits == [{"depth": 12, "eta": 1.0}] * 2  # of networks of timm with 24 blocks and another eta


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Carmon2019Unlabeled", "cifar10/Linf/Carmon2019Unlabeled"),
        ("carmon2019unlabeled", "cifar10/Linf/Carmon2019Unlabeled"),
        ("l2/Rice2020Overfitting", "cifar10/L2/Rice2020Overfitting"),
        ("cifar100/Rice2020Overfitting", "cifar100/Linf/Rice2020Overfitting"),
        ("Linf/cifar10/Rice2020Overfitting", "cifar10/Linf/Rice2020Overfitting"),
    ],
)
def test_a_name_is_found_with_as_much_as_it_needs(name, path):
    assert find(name).path == path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Standard", "cifar10/Linf/Standard, cifar10/L2/Standard; give one of these"),  # several share it
        ("Wong2020Fast", "cifar10/Linf/Wong2020Fast, imagenet/Linf/Wong2020Fast; give one of these"),
        ("Carmon2019Unlabeledd", "did you mean 'cifar10/Linf/Carmon2019Unlabeled'"),
        ("l2/Rade2021Helper_extra", "did you mean 'cifar10/Linf/Rade2021Helper_extra"),
        ("", "an entry of RobustBench's zoo for CIFAR"),
    ],
)
def test_other_names_get_those_that_there_are(name, says):
    refuses(says, find, name)


@pytest.mark.slow
@pytest.mark.parametrize("by_timm", [False, pytest.param(True, marks=TIMM)])
def test_every_file_has_the_names_and_shapes_of_the_zoo(by_timm):
    known, seals = json.loads(LAYOUTS.read_text()), {}
    for entry in ENTRIES:
        kind = f"{entry.net.name} {entry.classes}" + (" mu sigma" if entry.stored else "")
        if entry.net.create.startswith(("timm:", "fastadv.")) != by_timm:
            known.pop(kind, None)
        elif kind not in seals:
            with torch.device("meta"):
                options = {"shape": entry.shape, "classes": entry.classes, "seed": None}
                net = bare(create(entry.net.create, **options, **entry.net.options))
            shapes = layout(entry, net.state_dict()).items()
            lines = sorted(f"{name} {list(shape)}\n" for name, shape in shapes)
            seals[kind] = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert seals == known
