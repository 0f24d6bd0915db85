"""RobustBench: entries, and the accuracy under corruptions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.data.cifar_c import CORRUPTIONS
from fastadv.errors import InputError
from fastadv.evaluation import corruptions
from fastadv.evaluation.robustbench import RADII, entry
from fastadv.text import radius_text


class Darkness(nn.Module):
    """Class 1 where the mean of the image is above one half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([0.5 - mean, mean - 0.5, torch.full_like(mean, -9).expand(-1, 8)], 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images a severity: of corruption k at severity s, one is right where k + s is even, else both."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.array([0, 1] * 5, dtype=np.uint8))
    for k, name in enumerate(CORRUPTIONS):
        pixels = np.zeros((10, 32, 32, 3), dtype=np.uint8)
        for s in range(5):
            pixels[2 * s + 1] = 0 if (k + s) % 2 == 0 else 255
        np.save(folder / f"{name}.npy", pixels)
    return tmp_path


@pytest.mark.slow
def test_accuracy_under_every_corruption_at_every_severity(root: Path):
    seen = []
    found = corruptions(Darkness(), "cifar10c", root, progress=lambda done, total: seen.append((done, total)))
    expected = [[0.5 if (k + s) % 2 == 0 else 1.0 for s in range(5)] for k in range(15)]
    assert found.accuracy.tolist() == expected
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.to_dict()["corruptions"]["motion_blur"] == [1.0, 0.5, 1.0, 0.5, 1.0]
    assert seen[-1] == (75, 75)
    assert corruptions(Darkness(), "cifar10c", root, limit=1).mean == 1


def test_a_set_without_its_files_says_what_to_do(root: Path):
    (root / "CIFAR-10-C" / "frost.npy").unlink()
    with pytest.raises(InputError, match=r"expected CIFAR-10-C/frost\.npy below .*unpack the archive of"):
        corruptions(Darkness(), "cifar10c", root)
    with pytest.raises(InputError, match="expected one of cifar10c, cifar100c, got 'cifar10'"):
        corruptions(Darkness(), "cifar10", root)


def test_entries_are_as_robustbench_writes_them():
    # model_info/cifar10/corruptions/Erichson2022NoisyMix.json
    made = entry("cifar10", "WideResNet-28-4", 0.9673, 0.92784, about={"venue": "arXiv, Feb 2022"})
    assert list(made) == [
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
        "architecture", "eps", "clean_acc", "reported", "corruptions_acc", "footnote",
    ]  # fmt: skip
    assert (made["clean_acc"], made["corruptions_acc"], made["eps"]) == ("96.73", "92.78", None)
    assert made["venue"] == "arXiv, Feb 2022"
    # model_info/imagenet/Linf/Salman2020Do_R18.json
    attacked = entry("imagenet", "ResNet-18", 0.5292, 0.2532, fa.Linf(4 / 255), unreliable=True)
    assert (attacked["eps"], attacked["autoattack_acc"], attacked["unreliable"]) == ("4/255", "25.32", True)
    told = {0.2: "0.2", 0.3: "0.3", 50 / 255: "50/255", 0.031: "0.031", 0.0314: "0.0314", 0.0157: "0.0157"}
    assert {radius: radius_text(fa.Linf(radius)) for radius in told} == told
    assert [radius_text(fa.L2(radius)) for radius in (128 / 255, 1)] == ["0.501961", "1"]
    with pytest.raises(InputError, match=r"expected fields among link, .*, got eps"):
        entry("cifar10", "net", 1, 1, about={"eps": "1"})


def test_the_radii_are_those_of_the_leaderboards():
    linf = {"cifar10": 8 / 255, "cifar100": 8 / 255, "imagenet": 4 / 255}
    assert {(data, "linf"): radius for data, radius in linf.items()} | {("cifar10", "l2"): 0.5} == RADII
