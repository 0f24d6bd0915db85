"""MNIST from IDX files."""

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from fastadv.data import ImageSet, load
from fastadv.errors import CorruptFileError

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(*shape: int, payload: bytes) -> bytes:
    """An IDX file of unsigned bytes."""
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + payload


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A tiny test split: 20 images."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = torch.randint(0, 256, (20 * 784,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (folder / IMAGES).write_bytes(idx(20, 28, 28, payload=pixels.numpy().tobytes()))
    (folder / LABELS).write_bytes(idx(20, payload=bytes(i % 10 for i in range(20))))
    return folder


def read(raw: Path, **arguments: Any) -> ImageSet:
    dataset = load("mnist", "test", raw.parent.parent, download=False, **arguments)
    assert isinstance(dataset, ImageSet)
    return dataset


def test_idx_files_are_read_in_order(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read(raw)
    assert dataset.name == "mnist test"
    assert dataset.x.shape == (20, 1, 28, 28)
    assert dataset.x.numpy().tobytes() == (raw / IMAGES).read_bytes()[16:]
    assert dataset.labels.tolist() == [i % 10 for i in range(20)]
    resized = read(raw, size=14, limit=5)
    assert (resized.x.dtype, resized.x.shape) == (torch.uint8, (5, 1, 14, 14))
    monkeypatch.setenv("FASTADV_DATA", str(raw.parent.parent))
    assert load("mnist", "test", download=False).data_hash == dataset.data_hash


def test_the_real_files_are_the_canonical_ones(shared_data: Any) -> None:
    dataset = load("mnist", "test", shared_data.data_dir, download=False)
    assert len(dataset) == 10_000
    assert dataset.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(dataset.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("file", [IMAGES, LABELS])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-5], lambda b: b"", lambda b: b"<html>", lambda b: b[:4], lambda b: b + b"x"],
    ids=["truncated", "empty", "text", "header only", "longer"],
)  # fmt: skip
def test_damaged_files_are_refused_in_one_line(raw: Path, file: str, damage: Any) -> None:
    (raw / file).write_bytes(damage((raw / file).read_bytes()))
    with pytest.raises(CorruptFileError, match=r"t10k-\*-ubyte.*delete it and load again") as caught:
        read(raw)
    assert "\n" not in str(caught.value)
