"""The embedded digits, and MNIST, CIFAR-10, CIFAR-100 and SVHN as torchvision reads them."""

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastadv.data.folder import FolderSet, class_folders, images_in, read_image
from fastadv.data.imageset import ImageSet
from fastadv.errors import CorruptFileError, InputError

logger = logging.getLogger("fastadv")

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def fetch(name: str, layout: str, root: Path, download: bool, get: Callable[[], Any]) -> None:
    """Download `name` into `root` by calling `get`; InputError that says what belongs there if that fails."""
    reason = "downloading is switched off"
    if download:
        logger.info("downloading %s into %s", name, root)
        try:
            # torchvision prints; the library does not
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                get()
            return
        except (OSError, RuntimeError, ValueError) as error:
            reason = f"the download failed: {' '.join(str(error).split())[:300]}"
    raise InputError(
        f"{name}: expected {layout} below {root}, got none, and {reason}; put the files there, or name the "
        "folder that holds them with data_dir or FASTADV_DATA, or load once where there is a network"
    )


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


def cifar10(root: Path, split: str, download: bool, limit: int | None = None) -> ImageSet:
    """Return x uint8 [N, 3, 32, 32], from cifar-10-batches-py, or copies in cifar10/{train,test}/CLASS."""
    original_is_there = (root / "cifar-10-batches-py").is_dir()
    if not original_is_there and (root / "cifar10" / split).is_dir():
        return _copies(root / "cifar10" / split, split, limit)
    from fastadv._torchvision import datasets

    if not original_is_there:
        layout = "cifar-10-batches-py/ or cifar10/{train,test}/CLASS/*.jpg"
        fetch("cifar10", layout, root, download, lambda: datasets.CIFAR10(root, download=True))
    read = partial(datasets.CIFAR10, root, train=split == "train")
    return _photos(root / "cifar-10-batches-py", read, f"cifar10 {split}", CLASSES)


def _copies(folder: Path, split: str, limit: int | None) -> ImageSet:
    """Return the images of the class folders, decoded; with `limit` only that many."""
    name = f"cifar10 {split} (JPEG copies)"
    folders = class_folders(folder)
    if tuple(path.name for path in folders) != CLASSES:
        raise InputError(
            f"{name}: expected the class folders {', '.join(CLASSES)} in {folder}, got {len(folders)} others"
        )
    files = FolderSet(folder, [(path.name, images_in(path)) for path in folders], name)
    if limit is not None:
        files = files.subset(range(min(limit, len(files))))
    images = [read_image(path) for path in files.paths]
    wrong = next((i for i, image in enumerate(images) if image.shape != (3, 32, 32)), None)
    if wrong is not None:
        raise InputError(
            f"{files.paths[wrong]}: expected a 32x32 image, got {list(images[wrong].shape)}; replace it"
        )
    note = "JPEG copies of CIFAR-10: accuracies are a little lower than on the lossless images"
    return ImageSet(torch.stack(images), files.labels, CLASSES, name, note=note)


def cifar100(root: Path, split: str, download: bool) -> ImageSet:
    """Return x uint8 [N, 3, 32, 32], read from cifar-100-python below `root`."""
    from fastadv._torchvision import datasets

    folder = root / "cifar-100-python"
    if not folder.is_dir():
        fetch("cifar100", f"{folder.name}/", root, download, lambda: datasets.CIFAR100(root, download=True))
    return _photos(folder, partial(datasets.CIFAR100, root, train=split == "train"), f"cifar100 {split}")


def _photos(path: Path, read: Callable[[], Any], name: str, classes: Sequence[str] | None = None) -> ImageSet:
    original = read_original(path, read)
    x = torch.from_numpy(original.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(x, torch.tensor(original.targets, device="cpu"), classes or original.classes, name)


def svhn(root: Path, split: str, download: bool) -> ImageSet:
    """Return x uint8 [N, 3, 32, 32], read from {train,test}_32x32.mat in `root` or svhn/ below it."""
    from fastadv._torchvision import datasets

    file = f"{split}_32x32.mat"
    folder = root if (root / file).is_file() else root / "svhn"
    if not (folder / file).is_file():
        fetch("svhn", f"svhn/{file}", root, download, lambda: datasets.SVHN(folder, split, download=True))
    original = read_original(folder / file, partial(datasets.SVHN, folder, split))
    x, y = torch.from_numpy(original.data).contiguous(), torch.from_numpy(original.labels)
    return ImageSet(x, y, 10, f"svhn {split}")


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
    """Return the embedded digits, x float32 [N, 1, 8, 8] in sixteenths; a fifth is for testing."""
    with files("fastadv.data").joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
        x = torch.from_numpy(stored["images"]).float().div_(16).unsqueeze_(1)
        y = torch.from_numpy(stored["labels"]).long()
    turn = (y[:, None] == torch.arange(10, device="cpu")).long().cumsum(0).gather(1, y[:, None])[:, 0]
    chosen = (turn % 5 == 0) == (split == "test")
    return ImageSet(x[chosen], y[chosen], 10, f"digits {split}")
