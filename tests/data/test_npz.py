"""Generated images in npz files: mapped, not copied, and refused where they are not what they should be."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fastadv.data import NpzSet
from fastadv.errors import CorruptFileError
from tests.refusals import refuses


def arrays(n=20, shape=(6, 5, 3), seed=0):
    generator = np.random.default_rng(seed)
    return {
        "image": generator.integers(0, 256, (n, *shape), dtype=np.uint8),
        "label": generator.integers(0, 4, n),
    }


def pixels(held):
    return torch.from_numpy(held["image"]).permute(0, 3, 1, 2)


def test_a_stored_file_is_mapped_and_never_written(tmp_path):
    np.savez(tmp_path / "a.npz", other=np.zeros(3), **arrays())
    before = (tmp_path / "a.npz").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of arrays that it may not write
        dataset = NpzSet(tmp_path / "a.npz")
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(tmp_path / "a.npz") in mapped.read_text()
    dataset.parts[0].zero_()
    assert (tmp_path / "a.npz").read_bytes() == before
    # but one that lies column by column is read
    held = arrays()
    np.savez(tmp_path / "b.npz", image=np.asfortranarray(held["image"]), label=held["label"])
    assert torch.equal(NpzSet(tmp_path / "b.npz").take(torch.arange(20)), pixels(held))


def test_classes_are_those_given_or_as_many_as_the_labels_need(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays() | {"label": np.array([0, 2] * 10, dtype=np.int32)})
    assert NpzSet(tmp_path / "a.npz").num_classes == 3
    assert NpzSet(tmp_path / "a.npz", ["x", "y", "z", "w"]).classes == ("x", "y", "z", "w")
    assert NpzSet(tmp_path / "a.npz").labels.dtype == torch.int64
    refuses("labels from 0 to 1, got 0 to 2", NpzSet, tmp_path / "a.npz", 2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image": None}, "arrays image and label, got label"),
        ({"label": None, "labels": np.zeros(20, int)}, "got image, labels"),
        ({"image": arrays()["image"].astype(np.float32)}, r"uint8 \[N, H, W, C\].*got float32"),
        ({"image": arrays()["image"][..., 0]}, r"of shape \[20, 6, 5\]"),
        ({"image": arrays()["image"][:0], "label": np.zeros(0, int)}, "at least one image"),
        ({"label": np.zeros(19, int)}, r"20 integers, .* got int64 of shape \[19\]"),
        ({"label": np.array([0] * 19 + [None])}, "got object"),
        ({"label": np.full(20, -1)}, "got -1 to -1"),
    ],
)
def test_other_arrays_are_refused(tmp_path, change, match):
    held = {key: value for key, value in (arrays() | change).items() if value is not None}
    np.savez(tmp_path / "a.npz", **held)
    refuses(match, NpzSet, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("save", "damaged"),
    [
        (np.savez, lambda data: data[: len(data) // 2]),
        (np.savez, lambda data: flipped(data, data.index(b"NUMPY"))),
        (np.savez, lambda data: flipped(data, data.index(b"label.npy") + 200)),
        (np.savez_compressed, lambda data: data[: len(data) // 2]),
        (np.savez_compressed, lambda data: flipped(data, data.index(b"label.npy") // 2)),
    ],
    ids=["cut", "header", "label", "compressed-cut", "compressed-pixels"],
)
def test_a_damaged_file_is_named(tmp_path, save, damaged):
    path = tmp_path / "a.npz"
    save(path, **arrays())
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(CorruptFileError, match=r"a\.npz: expected a whole npz file"):
        NpzSet(path)


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
