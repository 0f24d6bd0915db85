"""The embedded digits, and MNIST, CIFAR-100 and SVHN as torchvision reads them, in their canonical order."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastadv.data._places import fetch
from fastadv.data.imageset import ImageSet
from fastadv.errors import CorruptFileError


def mnist(root: Path, split: str, download: bool) -> ImageSet:
    """Return x uint8 [N, 1, 28, 28], read from MNIST/raw/*-ubyte below `root`."""
    from fastadv._torchvision import datasets

    raw = root / "MNIST" / "raw"
    stem = "train" if split == "train" else "t10k"
    wanted = [raw / f"{stem}-images-idx3-ubyte", raw / f"{stem}-labels-idx1-ubyte"]
    if not all(path.is_file() for path in wanted):
        fetch("mnist", "MNIST/raw/*-ubyte", root, download, lambda: datasets.MNIST(root, download=True))
    try:
        images, labels = datasets.mnist.read_image_file(wanted[0]), datasets.mnist.read_label_file(wanted[1])
    # torchvision checks magic numbers and lengths by assertions, lookups and reshapes
    except (AssertionError, ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise CorruptFileError(
            f"{raw}: expected whole {stem}-*-ubyte files in IDX format, got one that does not read "
            f"({type(error).__name__}: {error}); delete it and load again"
        ) from error
    if len(images) != len(labels) or images.shape[1:] != (28, 28):
        raise CorruptFileError(
            f"{raw}: expected 28x28 images and as many labels, got images {list(images.shape)} and labels "
            f"{list(labels.shape)}; delete the {stem}-*-ubyte files and load again"
        )
    return ImageSet(images.unsqueeze(1), labels.long(), 10, f"mnist {split}")


def cifar100(root: Path, split: str, download: bool) -> ImageSet:
    """Return x uint8 [N, 3, 32, 32], read from cifar-100-python below `root`."""
    from fastadv._torchvision import datasets

    folder = root / "cifar-100-python"
    if not folder.is_dir():
        fetch("cifar100", f"{folder.name}/", root, download, lambda: datasets.CIFAR100(root, download=True))
    original = read_original(folder, lambda: datasets.CIFAR100(root, train=split == "train"))
    x = torch.from_numpy(original.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(x, torch.tensor(original.targets), original.classes, f"cifar100 {split}")


def svhn(root: Path, split: str, download: bool) -> ImageSet:
    """Return x uint8 [N, 3, 32, 32], read from {train,test}_32x32.mat in `root` or svhn/ below it."""
    from fastadv._torchvision import datasets

    file = f"{split}_32x32.mat"
    folder = root if (root / file).is_file() else root / "svhn"
    if not (folder / file).is_file():
        fetch("svhn", f"svhn/{file}", root, download, lambda: datasets.SVHN(folder, split, download=True))
    original = read_original(folder / file, lambda: datasets.SVHN(folder, split))
    return ImageSet(
        torch.from_numpy(original.data).contiguous(), torch.from_numpy(original.labels), 10, f"svhn {split}"
    )


def read_original(path: Path, read: Callable[[], Any]) -> Any:
    """Return what torchvision reads, which unpickles files only if their MD5 sums are right."""
    try:
        return read()
    except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{path}: expected the original files, got some that do not read or whose MD5 sum is wrong; "
            "delete them and load again"
        ) from error


def digits(split: str) -> ImageSet:
    """Return the embedded digits (UCI, 1998; license in digits.txt): x float32 [N, 1, 8, 8] in sixteenths.

    Every fifth of a class is for testing.
    """
    with files("fastadv.data").joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
        x = torch.from_numpy(stored["images"]).float().div_(16).unsqueeze_(1)
        y = torch.from_numpy(stored["labels"]).long()
    turn = (y[:, None] == torch.arange(10)).long().cumsum(0).gather(1, y[:, None])[:, 0]
    chosen = (turn % 5 == 0) == (split == "test")
    return ImageSet(x[chosen], y[chosen], 10, f"digits {split}")
