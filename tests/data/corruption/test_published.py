"""CIFAR-10-C and CIFAR-100-C, read from small arrays that are written as the published ones are."""

import numpy as np
import pytest
import torch

import fastadv as fa
from fastadv.data.corruption.published import published_set
from fastadv.errors import CorruptFileError, InputError

N = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (5 * N, 32, 32, 3), dtype=np.uint8)
LABELS = np.tile(np.arange(N) * 7 % 10, 5)


def written(folder, images=IMAGES, labels=LABELS):
    folder.mkdir(exist_ok=True)
    np.save(folder / "gaussian_noise.npy", images)
    np.save(folder / "labels.npy", labels)
    return folder


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_severity_is_its_rows(tmp_path, severity):
    folder = written(tmp_path / "CIFAR-10-C")
    dataset = fa.data.load("cifar10-c", "gaussian_noise", severity=severity, data_dir=tmp_path)
    rows = slice((severity - 1) * N, severity * N)
    assert dataset.x.dtype == torch.uint8
    np.testing.assert_array_equal(dataset.x.permute(0, 2, 3, 1), IMAGES[rows])
    assert dataset.labels.tolist() == LABELS[rows].tolist()
    assert dataset.name == f"cifar10-c gaussian_noise {severity}"
    assert dataset.note == "published files of CIFAR-10-C, not regenerated"
    assert (dataset.classes[:2], dataset.num_classes) == (("airplane", "automobile"), 10)
    assert published_set(folder, "gaussian_noise", severity).fixed_order
    name = f"cifar10-c:corruption=gaussian_noise,severity={severity},size=16"
    sized = fa.data.load(name, "test", data_dir=folder, limit=5)
    assert (len(sized), sized.shape, sized.note) == (5, (3, 16, 16), dataset.note)


def test_a_hundred_classes_are_those_of_the_other_set(tmp_path):
    written(tmp_path / "CIFAR-100-C", labels=np.tile(np.arange(N) * 9, 5).astype(np.uint8))
    dataset = fa.data.load("cifar100-c", "gaussian_noise", severity=1, data_dir=tmp_path)
    assert (dataset.name, dataset.num_classes) == ("cifar100-c gaussian_noise 1", 100)
    with pytest.raises(InputError, match=r"the files of CIFAR-10-C .* got those of cifar100-c"):
        fa.data.load("cifar10-c", "gaussian_noise", severity=1, data_dir=tmp_path / "CIFAR-100-C")


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("cifar10-c", {"split": "gausian_noise"}, "corruption: expected .*did you mean 'gaussian_noise'"),
        ("cifar10-c", {"split": "train"}, r"corruption: .* got 'train'"),
        ("cifar10-c:severity=x", {"severity": None}, "one severity, a whole number, got 'x' and None"),
        ("cifar10-c:severity=2", {}, "cifar10-c: expected one severity, .* got '2' and 3"),
        ("cifar10-c:corruption=fog", {}, "split: expected one of train, test, got 'gaussian_noise'"),
        ("cifar10", {"split": "test"}, "cifar10: expected no severity, got 3; fa.data.corrupted takes one"),
        ("cifar10-c", {"split": "impulse_noise"}, r"impulse_noise.npy: expected .*records/2535967"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, name, arguments, match):
    options = {"split": "gaussian_noise", "severity": 3, "data_dir": written(tmp_path / "any")} | arguments
    with pytest.raises(InputError, match=match):
        fa.data.load(name, **options)


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (IMAGES[:-1], LABELS[:-1], r"gaussian_noise.npy: expected uint8 .* got uint8 \[59, 32, 32, 3\]"),
        (IMAGES.astype(np.float32), LABELS, "expected uint8 .* got float32"),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, r"got uint8 \[60, 3, 32, 32\]"),
        (IMAGES, LABELS[:N], r"labels.npy: expected 60 integers, the same 12 for each .* got int64 \[12\]"),
        (IMAGES, np.sort(LABELS), "the same 12 for each severity, .* that differ"),
        (np.array(7), LABELS, r"got int64 \[\]"),
        (np.array([None]), LABELS, "gaussian_noise.npy: expected a whole npy file"),
    ],
)
def test_other_arrays_are_refused(tmp_path, images, labels, match):
    with pytest.raises(CorruptFileError, match=match):
        published_set(written(tmp_path, images, labels), "gaussian_noise", 1)


def test_another_kind_of_file_is_refused(tmp_path):
    with open(written(tmp_path) / "gaussian_noise.npy", "wb") as file:
        np.savez(file, IMAGES)
    with pytest.raises(CorruptFileError, match=r"gaussian_noise.npy: expected a whole npy file"):
        published_set(tmp_path, "gaussian_noise", 1)
