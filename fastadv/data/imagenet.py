"""ImageNet as RobustBench evaluates it, 5,000 named images; and nine super-classes, Restricted ImageNet."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastadv.data.folder import FolderSet, class_folders, images_in, open_image, split_folder, to_tensor
from fastadv.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# the shorter side, or height and width, to resize to; how; the center to cut out
PREPROCESSINGS: dict[str, tuple[int | list[int] | None, str, int | None]] = {
    "Res256Crop224": (256, "bilinear", 224),
    "BicubicRes256Crop224": (256, "bicubic", 224),
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
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the first image."""
        return tuple(self.pixels(0).shape)

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
    folder, _ = split_folder(root, split)
    classes = [path.name for path in class_folders(folder)]
    if len(classes) != 1000:
        raise InputError(
            f"imagenet: expected the 1000 class folders (n01440764 ...) in {folder}, got {len(classes)}; "
            "name the folder that holds val/ with data_dir"
        )
    names = _robustbench(folder, classes) if ids is None else _listed(Path(ids), classes)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"imagenet: expected the {len(names):,} images of the list in {folder}, got none for "
            f"{len(missing):,} of them, such as {missing[0]}; unpack the validation images into class folders"
        )
    return NamedImages(folder, classes, names, preprocessing)


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
    folder, _ = split_folder(root, split)
    folders = class_folders(folder)
    if len(folders) != 1000:
        raise InputError(
            "restricted_imagenet: expected the 1000 class folders of ImageNet (n01440764 ...) in "
            f"{folder}, got {len(folders)}; name the folder that holds train/ and val/ with data_dir"
        )
    groups = [
        (name, [file for path in folders[first : last + 1] for file in images_in(path)])
        for name, (first, last) in SUPER_CLASSES.items()
    ]
    return FolderSet(folder, groups, f"restricted_imagenet {split}", size=size or 224)
