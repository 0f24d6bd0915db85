"""Published sets: the embedded digits, MNIST, CIFAR and SVHN as torchvision reads them, and ImageNet."""

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastadv.data.folder import (
    FolderSet,
    class_folders,
    images_in,
    open_image,
    read_image,
    split_folder,
    to_tensor,
)
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
        if len(images) != len(labels) or images.shape[1:] != (28, 28):
            raise ValueError(f"images {list(images.shape)} and labels {list(labels.shape)}")
    # torchvision checks magic numbers and lengths by assertions, lookups and reshapes
    except (AssertionError, ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise CorruptFileError(
            f"{raw}: expected whole {stem}-*-ubyte files of 28x28 images and as many labels, got one that "
            f"does not read or fit ({type(error).__name__}: {error}); delete it and load again"
        ) from error
    return ImageSet(images.unsqueeze(1), labels.long(), 10, f"mnist {split}")


def cifar10(root: Path, split: str, download: bool, limit: int | None = None) -> ImageSet:
    """Return x uint8 [N, 3, 32, 32], from cifar-10-batches-py, or copies in cifar10/{train,test}/CLASS."""
    folder = root / "cifar-10-batches-py"
    if not folder.is_dir() and (root / "cifar10" / split).is_dir():
        return _copies(root / "cifar10" / split, split, limit)
    layout = f"{folder.name}/ or cifar10/{{train,test}}/CLASS/*.jpg"
    return _photos("cifar10", layout, folder, split, download)


def _copies(folder: Path, split: str, limit: int | None) -> ImageSet:
    """Return the images of the class folders, decoded; with `limit` only that many."""
    name = f"cifar10 {split} (JPEG copies)"
    folders = class_folders(folder)
    if tuple(path.name for path in folders) != CLASSES:
        raise InputError(
            f"{name}: expected the class folders {', '.join(CLASSES)} in {folder}, got {len(folders)} others"
        )
    files = FolderSet(folder, [(path.name, images_in(path)) for path in folders], name)
    turns = torch.cat([torch.arange(size, device="cpu") for size in files.labels.bincount().tolist()])
    files = files.subset(turns.argsort(stable=True)[:limit])  # one of each class in turn
    images = [read_image(path) for path in files.paths]
    for path, image in zip(files.paths, images, strict=True):
        if image.shape != (3, 32, 32):
            raise InputError(f"{path}: expected a 32x32 image, got {list(image.shape)}; replace it")
    note = "JPEG copies of CIFAR-10: accuracies are a little lower than on the lossless images"
    return ImageSet(torch.stack(images), files.labels, CLASSES, name, note=note)


def cifar100(root: Path, split: str, download: bool) -> ImageSet:
    """Return x uint8 [N, 3, 32, 32], read from cifar-100-python below `root`."""
    return _photos("cifar100", "cifar-100-python/", root / "cifar-100-python", split, download)


def _photos(name: str, layout: str, folder: Path, split: str, download: bool) -> ImageSet:
    from fastadv._torchvision import datasets

    read = partial(getattr(datasets, name.upper()), folder.parent, train=split == "train")
    original = _original(name, layout, folder.parent, folder, read, download)
    x = torch.from_numpy(original.data).permute(0, 3, 1, 2).contiguous()
    classes = CLASSES if name == "cifar10" else original.classes
    return ImageSet(x, torch.tensor(original.targets, device="cpu"), classes, f"{name} {split}")


def svhn(root: Path, split: str, download: bool) -> ImageSet:
    """Return x uint8 [N, 3, 32, 32], read from {train,test}_32x32.mat in `root` or svhn/ below it."""
    from fastadv._torchvision import datasets

    file = f"{split}_32x32.mat"
    folder = root if (root / file).is_file() else root / "svhn"
    read = partial(datasets.SVHN, folder, split)
    original = _original("svhn", f"svhn/{file}", root, folder / file, read, download)
    x, y = torch.from_numpy(original.data).contiguous(), torch.from_numpy(original.labels)
    return ImageSet(x, y, 10, f"svhn {split}")


def _original(
    name: str, layout: str, root: Path, path: Path, read: Callable[..., Any], download: bool
) -> Any:
    """Return what torchvision reads, downloaded if it is absent; files with a wrong MD5 sum are not read."""
    if not path.exists():
        fetch(name, layout, root, download, partial(read, download=True))
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


if TYPE_CHECKING:
    from PIL.Image import Image

# ImageNet as RobustBench evaluates it, 5,000 named images.

# the shorter side, or height and width, to resize to; how; the center to cut out
PREPROCESSINGS: dict[str, tuple[int | list[int] | None, str, int | None]] = {
    "Res256Crop224": (256, "bilinear", 224),
    "BicubicRes256Crop224": (256, "bicubic", 224),
    "BicubicRes224Crop224": (224, "bicubic", 224),  # of its networks from timm
    "Res224": ([224, 224], "bilinear", None),
    "Crop288": (None, "", 288),
    "none": (None, "", None),
}
# The numbers of RobustBench's images in their order: 00015253 is ILSVRC2012_val_00015253.JPEG.
NUMBERS = Path(__file__).with_name("robustbench_imagenet.npy")


class NamedImages(FolderSet):
    """Images of class folders in a given order, each preprocessed as it is read."""

    def __init__(self, root: Path, classes: list[str], names: list[str], preprocessing: str) -> None:
        places = {name: place for place, name in enumerate(classes)}
        self.root, self.size, self.preprocessing = root, None, preprocessing
        self.classes, self.note = tuple(classes), f"preprocessing {preprocessing}"
        self.name = f"imagenet ({len(names):,} named images)"
        self.paths = [root / name for name in names]
        self.labels = torch.tensor([places[name.split("/")[0]] for name in names], device="cpu")

    @cached_property
    def data_hash(self) -> str:
        """Hash of the preprocessing, and of names, file sizes and labels."""
        files = FolderSet.data_hash.func(self)  # type: ignore[attr-defined]
        return hashlib.sha256(f"{self.preprocessing} {files}".encode()).hexdigest()[:16]

    def pixels(self, position: int) -> Tensor:
        return to_tensor(_preprocess(open_image(self.paths[position]), self.preprocessing))


def imagenet(
    root: Path, split: str, size: int | None, preprocessing: str = "Res256Crop224", ids: str | None = None
) -> NamedImages:
    """Read root/val/nXXXXXXXX/*.JPEG lazily, in the order of the file `ids`, or RobustBench's 5,000."""
    if split != "test":
        raise InputError(f"imagenet: the named images are of the validation set, got split {split!r}")
    if size is not None:
        raise InputError(f"imagenet: expected no size, which follows from preprocessing, got {size}")
    if preprocessing not in PREPROCESSINGS:
        raise InputError(
            f"imagenet: expected preprocessing among {', '.join(PREPROCESSINGS)}, got {preprocessing!r}"
        )
    folder, folders = _thousand_folders("imagenet", root, split)
    classes = [path.name for path in folders]
    names = _robustbench(folder, classes) if ids is None else _listed(Path(ids), classes)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"imagenet: expected the {len(names):,} images of the list in {folder}, got none for "
            f"{len(missing):,} of them, such as {missing[0]}; unpack the validation images into class folders"
        )
    images = NamedImages(folder, classes, names, preprocessing)
    images.fixed_order = ids is None  # everybody's first N of RobustBench's
    return images


def _thousand_folders(name: str, root: Path, split: str) -> tuple[Path, list[Path]]:
    """Return the folder of a split of ImageNet, and those of its classes."""
    folder, _ = split_folder(root, split)
    folders = class_folders(folder)
    if len(folders) != 1000:
        raise InputError(
            f"{name}: expected the 1000 class folders of ImageNet (n01440764 ...) in {folder}, "
            f"got {len(folders)}; name the folder that holds train/ and val/ with data_dir"
        )
    return folder, folders


def _robustbench(folder: Path, classes: list[str]) -> list[str]:
    """Return RobustBench's names: a file's number tells its name, and where it lies its class."""
    there = {path.name: f"{name}/{path.name}" for name in classes for path in (folder / name).iterdir()}
    files = [f"ILSVRC2012_val_{number:08}.JPEG" for number in np.load(NUMBERS, allow_pickle=False).tolist()]
    return [there.get(file, f"*/{file}") for file in files]


def _listed(path: Path, classes: list[str]) -> list[str]:
    if not path.is_file():
        raise InputError(f"imagenet: expected a file of ids, one CLASS/FILENAME a line, got none at {path}")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    strange = [name for name in names if name.count("/") != 1 or name.split("/")[0] not in set(classes)]
    if not names or strange:
        what = repr(strange[0]) if strange else "an empty file"
        raise InputError(f"{path}: expected one CLASS/FILENAME a line, got {what}")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: expected each image once, got {len(names) - len(set(names))} twice")
    return names


def _preprocess(image: "Image", preprocessing: str) -> "Image":
    from fastadv._torchvision import functional

    size, mode, crop = PREPROCESSINGS[preprocessing]
    if size is not None:
        image = functional.resize(image, size, interpolation=functional.InterpolationMode(mode))
    return functional.center_crop(image, crop) if crop else image


# Restricted ImageNet (Tsipras et al. 2019; used by Ilyas et al. 2019): the first and last ImageNet class
# of each label (of 1,000, by sorted WordNet id), in the order of the labels.
SUPER_CLASSES = {
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "monkey": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}


def restricted_imagenet(root: Path, split: str, size: int | None) -> FolderSet:
    """Return the nine super-classes of root/{train,val}/nXXXXXXXX/*, lazily, at 224x224 or `size`."""
    folder, folders = _thousand_folders("restricted_imagenet", root, split)
    groups = [
        (name, [file for path in folders[first : last + 1] for file in images_in(path)])
        for name, (first, last) in SUPER_CLASSES.items()
    ]
    return FolderSet(folder, groups, f"restricted_imagenet {split}", size=size or 224)
