"""CIFAR-10-C and CIFAR-100-C from files in the layout of their authors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastadv.data import ImageSet, load
from fastadv.data.cifar_c import CORRUPTIONS, EXTRA
from fastadv.errors import CorruptFileError, InputError

PIXELS = {name: np.random.default_rng(k).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
          for k, name in enumerate((*CORRUPTIONS, "spatter"))}  # fmt: skip
LABELS = np.arange(20, dtype=np.uint8) % 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images for each of the five severities."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", LABELS)
    for name, pixels in PIXELS.items():
        np.save(folder / f"{name}.npy", pixels)
    return tmp_path


def read(root: Path, name: str) -> ImageSet:
    dataset = load(name, "test", root, download=False)
    assert isinstance(dataset, ImageSet)
    return dataset


def test_one_corruption_at_one_severity(root: Path) -> None:
    dataset = read(root, "cifar10c:corruption=fog,severity=3")
    assert dataset.name == "cifar10c fog, severity 3"
    assert torch.equal(dataset.x, torch.from_numpy(PIXELS["fog"][8:12]).permute(0, 3, 1, 2))
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    assert dataset.classes[0] == "airplane"
    assert torch.equal(
        read(root, "cifar10c:corruption=spatter,severity=1").x[0].permute(1, 2, 0),
        torch.from_numpy(PIXELS["spatter"][0]),
    )


def test_all_corruptions_come_in_the_order_of_robustbench(root: Path) -> None:
    dataset = read(root, "cifar10c")
    assert (len(dataset), len(CORRUPTIONS), len(EXTRA)) == (60, 15, 4)
    assert torch.equal(dataset.x[56:], torch.from_numpy(PIXELS["elastic_transform"][16:]).permute(0, 3, 1, 2))
    assert dataset.labels.tolist() == [0, 1, 2, 3] * 15


def test_cifar100c_has_a_folder_of_its_own(root: Path) -> None:
    (root / "CIFAR-10-C").rename(root / "CIFAR-100-C")
    assert read(root, "cifar100c:corruption=fog").num_classes == 100
    with pytest.raises(InputError, match=r"expected CIFAR-10-C/labels\.npy below .*zenodo\.org/records/2535"):
        read(root, "cifar10c:corruption=fog")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cifar10c:corruption=rain", "expected a corruption among shot_noise, .*, got 'rain'"),
        ("cifar10c:severity=6", "expected a severity from 1 to 5, got '6'"),
        (
            "cifar10c:level=3",
            "expected each of corruption, severity at most once, as KEY=VALUE, got 'level=3'",
        ),
        ("cifar10c:severity=1,severity=2", "at most once"),
        ("cifar10c:severity=", "got 'severity='"),
        ("cifar10:severity=3", "cifar10: expected no options, got 'severity=3'"),
        ("cifar10c:corruption=frog", "got 'frog'"),
    ],
)
def test_options_without_sense_are_refused(root: Path, name: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read(root, name)


@pytest.mark.parametrize("wrong", [PIXELS["fog"][:19], PIXELS["fog"][..., :2], PIXELS["fog"] / 255, None])
def test_files_of_another_kind_are_refused(root: Path, wrong: np.ndarray | None) -> None:
    path = root / "CIFAR-10-C" / "fog.npy"
    if wrong is None:
        path.write_bytes(path.read_bytes()[:1000])
    else:
        np.save(path, wrong)
    with pytest.raises(CorruptFileError, match=r"fog\.npy: expected"):
        read(root, "cifar10c:corruption=fog")
