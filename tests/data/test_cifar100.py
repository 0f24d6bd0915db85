"""CIFAR-100 and SVHN in the files that torchvision reads."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastadv.data import ImageSet, load
from fastadv.errors import CorruptFileError

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven test images in the original layout, with the sums that torchvision then expects."""
    from fastadv._torchvision import datasets

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    contents: dict[str, Any] = {
        "test": {"data": PIXELS.reshape(7, -1), "fine_labels": [99, 0, 5, 7, 7, 1, 2]},
        "meta": {"fine_label_names": [f"class {k}" for k in range(100)]},
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", md5(folder / "test")]])
    meta = {**datasets.CIFAR100.meta, "md5": md5(folder / "meta")}
    monkeypatch.setattr(datasets.CIFAR100, "meta", meta)
    return tmp_path


def test_cifar100_keeps_its_order_and_fine_classes(cifar100: Path) -> None:
    dataset = load("cifar100", "test", cifar100, download=False)
    assert isinstance(dataset, ImageSet)
    assert torch.equal(dataset.x, torch.from_numpy(PIXELS))
    assert dataset.labels.tolist() == [99, 0, 5, 7, 7, 1, 2]
    assert (dataset.name, dataset.num_classes, dataset.classes[99]) == ("cifar100 test", 100, "class 99")
    assert len(load("cifar100", "test", cifar100, limit=2, size=16)) == 2


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven test images as a MATLAB file, in which 10 is the digit 0."""
    from scipy.io import savemat

    from fastadv._torchvision import datasets

    path = tmp_path / "test_32x32.mat"
    labels = np.array([[10], [1], [2], [9], [10], [4], [4]], dtype=np.uint8)
    savemat(path, {"X": PIXELS.transpose(2, 3, 1, 0), "y": labels})
    monkeypatch.setitem(datasets.SVHN.split_list, "test", ["", path.name, md5(path)])
    return tmp_path


def test_svhn_keeps_its_order_and_calls_the_digit_0_so(svhn: Path) -> None:
    dataset = load("svhn", "test", svhn, download=False)
    assert isinstance(dataset, ImageSet)
    assert torch.equal(dataset.x, torch.from_numpy(PIXELS))
    assert dataset.labels.tolist() == [0, 1, 2, 9, 0, 4, 4]
    (svhn / "svhn").mkdir()
    (svhn / "test_32x32.mat").rename(svhn / "svhn" / "test_32x32.mat")
    assert load("svhn", "test", svhn, download=False).data_hash == dataset.data_hash


def test_files_with_a_wrong_sum_are_never_read(cifar100: Path, svhn: Path) -> None:
    with (cifar100 / "cifar-100-python" / "test").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CorruptFileError, match="MD5 sum is wrong; delete them"):
        load("cifar100", "test", cifar100)
    (svhn / "test_32x32.mat").write_bytes(b"short")
    with pytest.raises(CorruptFileError, match="MD5 sum is wrong; delete them"):
        load("svhn", "test", svhn)
