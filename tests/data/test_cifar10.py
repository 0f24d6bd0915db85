"""CIFAR-10: the original, and JPEG copies in class folders."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastadv.data import ImageSet, load
from fastadv.data.published import CLASSES
from fastadv.errors import CorruptFileError, InputError


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Three JPEG copies for each class: the red value is 20 times the class."""
    for label, name in enumerate(CLASSES):
        folder = tmp_path / "cifar10" / "test" / name
        folder.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (20 * label, 0, 0)).save(folder / f"{i:04}.jpg")
    return tmp_path


def read(root: Path, **arguments: Any) -> ImageSet:
    dataset = load("cifar10", "test", root, download=False, **arguments)
    assert isinstance(dataset, ImageSet)
    return dataset


def test_copies_say_what_they_are(copies: Path) -> None:
    dataset = read(copies)
    assert dataset.name == "cifar10 test (JPEG copies)"
    assert "JPEG copies" in dataset.describe()["note"]
    assert dataset.x.dtype == torch.uint8
    assert dataset.shape == (3, 32, 32)
    assert dataset.labels.tolist() == list(range(10)) * 3
    assert (dataset.x[:, 0].float().mean(dim=(1, 2)) - 20 * dataset.labels).abs().max() < 3


def test_a_limit_keeps_what_the_whole_set_begins_with(copies: Path) -> None:
    assert torch.equal(read(copies, limit=12).x, read(copies).x[:12])
    assert read(copies, limit=12, size=16).x.shape == (12, 3, 16, 16)


def test_a_copy_that_is_damaged_or_of_another_size_is_named(copies: Path) -> None:
    path = copies / "cifar10" / "test" / "cat" / "0001.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorruptFileError, match=r"cat/0001\.jpg: expected a whole image file"):
        read(copies)
    Image.new("RGB", (33, 32)).save(path)
    with pytest.raises(InputError, match=r"cat/0001\.jpg: expected a 32x32 image, got \[3, 32, 33\]"):
        read(copies)


def test_the_original_is_preferred_and_keeps_its_order(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadv._torchvision import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(
        datasets,
        "CIFAR10",
        lambda root, train: SimpleNamespace(data=pixels, targets=[3] * 10 + list(range(10))),
    )
    (copies / "cifar-10-batches-py").mkdir()
    dataset = read(copies)
    assert (dataset.name, dataset.note) == ("cifar10 test", "")
    assert torch.equal(dataset.x, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert dataset.labels.tolist() == [3] * 10 + list(range(10))


def test_original_files_with_a_wrong_sum_are_never_unpickled(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(CorruptFileError, match="MD5 sum is wrong; delete them"):
        read(tmp_path)
