"""CIFAR-100, as torchvision reads and downloads it."""

from pathlib import Path

import torch

from fastadv.data._places import fetch
from fastadv.data.imageset import ImageSet
from fastadv.errors import CorruptFileError


def cifar100(root: Path, split: str, download: bool) -> ImageSet:
    """CIFAR-100 in its canonical order, x uint8 [N, 3, 32, 32]; read from cifar-100-python below `root`.

    InputError where the files are not there and a download is not possible; CorruptFileError for damaged
    ones.
    """
    from fastadv._torchvision import datasets

    folder = root / "cifar-100-python"
    if not folder.is_dir():
        fetch("cifar100", f"{folder.name}/", root, download, lambda: datasets.CIFAR100(root, download=True))
    try:
        # the files are pickles: torchvision reads them only if their MD5 sums are right
        original = datasets.CIFAR100(root, train=split == "train")
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise CorruptFileError(
            f"{folder}: expected the original CIFAR-100 files, got some that do not read or whose MD5 sum is "
            "wrong; delete the folder and load again"
        ) from error
    x = torch.from_numpy(original.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(x, torch.tensor(original.targets), original.classes, f"cifar100 {split}")
