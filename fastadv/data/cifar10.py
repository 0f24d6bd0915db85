"""CIFAR-10: the lossless original by torchvision, or JPEG copies in class folders."""

from pathlib import Path

import torch

from fastadv.data._places import fetch
from fastadv.data.folder import FolderSet, class_folders, images_in, read_image
from fastadv.data.imageset import ImageSet
from fastadv.data.published import read_original
from fastadv.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: Path, split: str, download: bool, limit: int | None = None) -> ImageSet:
    """CIFAR-10, x uint8 [N, 3, 32, 32], from cifar-10-batches-py or cifar10/{train,test}/CLASS in `root`.

    The original, which comes first, is in its canonical order. The JPEG copies have lost that order: they
    take one image of each class in turn, and the set's name and note say that they are copies, on which
    accuracies are a little lower. InputError if neither is there and a download is not possible;
    CorruptFileError for damaged files.
    """
    original_is_there = (root / "cifar-10-batches-py").is_dir()
    if not original_is_there and (root / "cifar10" / split).is_dir():
        return _copies(root / "cifar10" / split, split, limit)
    from fastadv._torchvision import datasets

    if not original_is_there:
        layout = "cifar-10-batches-py/ or cifar10/{train,test}/CLASS/*.jpg"
        fetch("cifar10", layout, root, download, lambda: datasets.CIFAR10(root, download=True))
    original = read_original(
        root / "cifar-10-batches-py", lambda: datasets.CIFAR10(root, train=split == "train")
    )
    x = torch.from_numpy(original.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(x, torch.tensor(original.targets), CLASSES, f"cifar10 {split}")


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
