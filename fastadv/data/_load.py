"""Data sets by name."""

import os

import torch
from torch.nn.functional import interpolate

from fastadv.data._places import data_folder
from fastadv.data.cifar10 import cifar10
from fastadv.data.digits import digits
from fastadv.data.folder import FolderSet
from fastadv.data.imagefolder import imagefolder
from fastadv.data.imageset import ImageSet, to_unit
from fastadv.data.mnist import mnist
from fastadv.data.restricted_imagenet import restricted_imagenet
from fastadv.errors import InputError

_NAMES = ("digits", "mnist", "cifar10", "imagefolder", "restricted_imagenet")


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return _NAMES


def _resized(dataset: ImageSet, size: int) -> ImageSet:
    """Resize every image to size x size, bilinearly, smoothed where it shrinks; uint8 stays uint8."""
    x = interpolate(
        to_unit(dataset.x), (size, size), mode="bilinear", antialias=size < min(dataset.shape[1:])
    )
    # the weights add up to one only up to rounding, and may leave the box by an ulp
    x.clamp_(0, 1)
    if dataset.x.dtype == torch.uint8:
        x = (x * 255).round_().to(torch.uint8)
    return ImageSet(x, dataset.y, dataset.classes, f"{dataset.name} at {size}x{size}", note=dataset.note)


def load(
    name: str,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    size: int | None = None,
    limit: int | None = None,
    *,
    download: bool = True,
) -> ImageSet | FolderSet:
    """Load a data set by name; images are served as float32 in [0, 1].

    name: "digits" (embedded), "mnist", "cifar10", "imagefolder", "restricted_imagenet".
    split: "train" or "test".
    data_dir: the folder that holds MNIST/ or cifar10/, or the class folders themselves for the last two;
        unless given, the environment variable FASTADV_DATA, else a folder in the user's cache, into which
        mnist and cifar10 are downloaded unless `download` is off.
    size: height and width of the images (images on disk: the shorter side is resized, then the center is cut
        out).
    limit: keep only this many images, the first ones.

    InputError for an unknown name or split, a missing folder or file, a class without images;
    CorruptFileError for damaged files.
    """
    if name not in _NAMES:
        raise InputError(f"no data set {name!r}; there are {', '.join(_NAMES)}")
    if split not in ("train", "test"):
        raise InputError(f"expected split 'train' or 'test', got {split!r}")
    for what, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"expected {what} >= 1, got {value}")
    dataset: ImageSet | FolderSet
    if name in ("imagefolder", "restricted_imagenet"):
        if not (data_dir or os.environ.get("FASTADV_DATA")):
            raise InputError(
                f"{name}: expected the folder of the images, got none; name it with data_dir or FASTADV_DATA"
            )
        read = imagefolder if name == "imagefolder" else restricted_imagenet
        dataset = read(data_folder(data_dir), split, size)
    else:
        if name == "digits":
            dataset = digits(split)
        elif name == "mnist":
            dataset = mnist(data_folder(data_dir), split, download)
        else:
            dataset = cifar10(data_folder(data_dir), split, download, limit)
        dataset = _resized(dataset, size) if size else dataset
    return dataset if limit is None or limit >= len(dataset) else dataset.subset(range(limit))
