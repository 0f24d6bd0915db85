"""The embedded digits, MNIST, CIFAR-10, CIFAR-100 and SVHN in the files that they are published in."""

import hashlib
import pickle
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastadv.data import ImageSet, load
from fastadv.data.published import CLASSES
from fastadv.errors import CorruptFileError, InputError


def read(name, root, **arguments):
    dataset = load(name, "test", root, download=False, **arguments)
    assert isinstance(dataset, ImageSet)
    return dataset


def test_the_split_is_fixed_stratified_and_whole():
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test), train.shape) == (1442, 355, (1, 8, 8))
    counts = torch.bincount(train.labels), torch.bincount(test.labels)
    assert ((counts[1] / (counts[0] + counts[1]) - 0.2).abs() < 0.005).all()
    assert len(torch.cat([each.x for each in (train, test)]).unique(dim=0)) == 1797
    assert (train.data_hash, test.data_hash) == ("5b621d74d6b1e97f", "c0a4c23d8e85c297")


@pytest.mark.parametrize("split", ["train", "test"])
def test_resized_digits_stay_in_the_box_and_keep_their_labels(split):
    small, large = load("digits", split), load("digits", split, size=28)
    assert isinstance(large, ImageSet)
    assert large.x.shape == (len(small), 1, 28, 28)
    assert large.name == f"digits {split} at 28x28"
    assert torch.equal(large.labels, small.labels)
    # Bilinear: the mean is kept, up to the border.
    assert (large.x.mean(dim=(1, 2, 3)) - small.x.mean(dim=(1, 2, 3))).abs().max() < 0.02


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(*shape, payload):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + payload


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = torch.randint(0, 256, (20 * 784,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (folder / IMAGES).write_bytes(idx(20, 28, 28, payload=pixels.numpy().tobytes()))
    (folder / LABELS).write_bytes(idx(20, payload=bytes(i % 10 for i in range(20))))
    return folder


def test_idx_files_are_read_in_order(raw, monkeypatch):
    dataset = read("mnist", raw.parent.parent)
    assert dataset.name == "mnist test"
    assert dataset.x.shape == (20, 1, 28, 28)
    assert dataset.x.numpy().tobytes() == (raw / IMAGES).read_bytes()[16:]
    assert dataset.labels.tolist() == [i % 10 for i in range(20)]
    resized = read("mnist", raw.parent.parent, size=14, limit=5)
    assert (resized.x.dtype, resized.x.shape) == (torch.uint8, (5, 1, 14, 14))
    monkeypatch.setenv("FASTADV_DATA", str(raw.parent.parent))
    assert load("mnist", "test", download=False).data_hash == dataset.data_hash


def test_the_real_files_are_the_canonical_ones(shared_data):
    dataset = load("mnist", "test", shared_data.data_dir, download=False)
    assert len(dataset) == 10_000
    assert dataset.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(dataset.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("file", [IMAGES, LABELS])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-5], lambda b: b"", lambda b: b"<html>", lambda b: b[:4], lambda b: b + b"x"],
    ids=["truncated", "empty", "text", "header only", "longer"],
)  # fmt: skip
def test_damaged_files_are_refused_in_one_line(raw, file, damage):
    (raw / file).write_bytes(damage((raw / file).read_bytes()))
    with pytest.raises(CorruptFileError, match=r"t10k-\*-ubyte.*delete it and load again") as caught:
        read("mnist", raw.parent.parent)
    assert "\n" not in str(caught.value)


@pytest.fixture
def copies(tmp_path):
    """Three JPEG copies for each class: the red value is 20 times the class."""
    for label, name in enumerate(CLASSES):
        folder = tmp_path / "cifar10" / "test" / name
        folder.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (20 * label, 0, 0)).save(folder / f"{i:04}.jpg")
    return tmp_path


def test_copies_say_what_they_are(copies):
    dataset = read("cifar10", copies)
    assert dataset.name == "cifar10 test (JPEG copies)"
    assert "JPEG copies" in dataset.describe()["note"]
    assert dataset.x.dtype == torch.uint8
    assert dataset.shape == (3, 32, 32)
    assert dataset.labels.tolist() == list(range(10)) * 3
    assert (dataset.x[:, 0].float().mean(dim=(1, 2)) - 20 * dataset.labels).abs().max() < 3


def test_a_copy_that_is_damaged_or_of_another_size_is_named(copies):
    path = copies / "cifar10" / "test" / "cat" / "0001.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorruptFileError, match=r"cat/0001\.jpg: expected a whole image file"):
        read("cifar10", copies)
    Image.new("RGB", (33, 32)).save(path)
    with pytest.raises(InputError, match=r"cat/0001\.jpg: expected a 32x32 image, got \[3, 32, 33\]"):
        read("cifar10", copies)


def test_the_original_is_preferred_and_keeps_its_order(copies, monkeypatch):
    from tests.vision import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    made = SimpleNamespace(data=pixels, targets=[3] * 10 + list(range(10)))
    monkeypatch.setattr(datasets, "CIFAR10", lambda root, train: made)
    (copies / "cifar-10-batches-py").mkdir()
    dataset = read("cifar10", copies)
    assert (dataset.name, dataset.note) == ("cifar10 test", "")
    assert torch.equal(dataset.x, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert dataset.labels.tolist() == [3] * 10 + list(range(10))


PIXELS = np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """Seven test images in the original layout, with the sums that torchvision then expects."""
    from tests.vision import datasets

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    contents = {
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


def test_cifar100_keeps_its_order_and_fine_classes(cifar100):
    dataset = read("cifar100", cifar100)
    assert torch.equal(dataset.x, torch.from_numpy(PIXELS))
    assert dataset.labels.tolist() == [99, 0, 5, 7, 7, 1, 2]
    assert (dataset.name, dataset.num_classes, dataset.classes[99]) == ("cifar100 test", 100, "class 99")
    assert len(load("cifar100", "test", cifar100, limit=2, size=16)) == 2


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    from scipy.io import savemat

    from tests.vision import datasets

    path = tmp_path / "test_32x32.mat"
    labels = np.array([[10], [1], [2], [9], [10], [4], [4]], dtype=np.uint8)
    savemat(path, {"X": PIXELS.transpose(2, 3, 1, 0), "y": labels})
    monkeypatch.setitem(datasets.SVHN.split_list, "test", ["", path.name, md5(path)])
    return tmp_path


def test_svhn_keeps_its_order_and_calls_the_digit_0_so(svhn):
    dataset = read("svhn", svhn)
    assert torch.equal(dataset.x, torch.from_numpy(PIXELS))
    assert dataset.labels.tolist() == [0, 1, 2, 9, 0, 4, 4]
    (svhn / "svhn").mkdir()
    (svhn / "test_32x32.mat").rename(svhn / "svhn" / "test_32x32.mat")
    assert read("svhn", svhn).data_hash == dataset.data_hash


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/test_batch"),
        ("cifar100", "cifar-100-python/test"),
        ("svhn", "test_32x32.mat"),
    ],
)
def test_files_with_a_wrong_sum_are_never_unpickled(cifar100, svhn, name, file):
    (svhn / "cifar-10-batches-py").mkdir()
    (svhn / file).write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(CorruptFileError, match="MD5 sum is wrong; delete them"):
        read(name, svhn)
