"""SVHN, cropped digits of house numbers (Netzer et al. 2011), as torchvision reads and downloads it."""

from pathlib import Path

import torch

from fastadv.data._places import fetch
from fastadv.data.imageset import ImageSet
from fastadv.errors import CorruptFileError


def svhn(root: Path, split: str, download: bool) -> ImageSet:
    """SVHN in its canonical order, x uint8 [N, 3, 32, 32]; read from {train,test}_32x32.mat in `root`.

    The files may also be in svhn/ below `root`, where a download puts them. Label 0 is the digit 0.
    InputError where they are not there and a download is not possible; CorruptFileError for damaged ones.
    """
    from fastadv._torchvision import datasets

    file = f"{split}_32x32.mat"
    folder = root if (root / file).is_file() else root / "svhn"
    if not (folder / file).is_file():
        fetch("svhn", f"svhn/{file}", root, download, lambda: datasets.SVHN(folder, split, download=True))
    try:
        original = datasets.SVHN(folder, split)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{folder / file}: expected the original SVHN file, got one that does not read or whose MD5 sum "
            "is wrong; delete it and load again"
        ) from error
    x = torch.from_numpy(original.data).contiguous()
    return ImageSet(x, torch.from_numpy(original.labels), 10, f"svhn {split}")
