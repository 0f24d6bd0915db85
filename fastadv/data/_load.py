"""Data sets by name, and constructed ones by their folder."""

import os
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from fastadv._checks import check_choice
from fastadv.data.corruption.published import ARCHIVES, archived
from fastadv.data.folder import FolderSet, imagefolder
from fastadv.data.imageset import ImageSet, to_unit
from fastadv.data.published import (
    CLASSES,
    cifar10,
    cifar100,
    digits,
    imagenet,
    mnist,
    restricted_imagenet,
    svhn,
)
from fastadv.data.sampling import part_of
from fastadv.data.shards import INDEX
from fastadv.errors import CorruptFileError, InputError
from fastadv.files import load_torch, user_cache

# Sets of images as files, whose folder the user must name
_FILES: dict[str, Any] = {
    "imagefolder": imagefolder,
    "restricted_imagenet": restricted_imagenet,
    "imagenet": imagenet,
}
_DOWNLOADED: dict[str, Any] = {"mnist": mnist, "cifar10": cifar10, "cifar100": cifar100, "svhn": svhn}
_NAMES = ("digits", *_DOWNLOADED, *ARCHIVES, *_FILES)
IMAGES, LABELS = "CIFAR_ims", "CIFAR_lab"  # the files of a published set
# Options after a name, as in imagenet:preprocessing=Crop288; other sets take imagefolder:size=32
_OPTIONS: dict[str, tuple[str, ...]] = {"imagenet": ("preprocessing", "ids")}
_OPTIONS |= dict.fromkeys(ARCHIVES, ("corruption", "severity", "size"))


def names() -> tuple[str, ...]:
    return _NAMES


def is_named(text: str) -> bool:
    return text.partition(":")[0] in _NAMES


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Return `data_dir`, else the folder in FASTADV_DATA, else fastadv/ in the user's cache (created)."""
    named = data_dir or os.environ.get("FASTADV_DATA")
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            source = "data_dir" if data_dir else "FASTADV_DATA"
            raise InputError(
                f"{source} {root}: expected a folder of data sets, got none; create it or name another"
            )
        return root
    root = user_cache()
    root.mkdir(parents=True, exist_ok=True)
    return root


def _parse(text: str) -> tuple[str, dict[str, str]]:
    name, _, tail = text.partition(":")
    check_choice("data set", name, _NAMES, ', or for class folders "imagefolder" with data_dir=')
    known, options = _OPTIONS.get(name, ("size",)), {}
    for part in tail.split(",") if tail else ():
        key, equals, value = part.partition("=")
        if key not in known or not equals or not value or key in options:
            expected = f"each of {', '.join(known)} at most once, as KEY=VALUE"
            raise InputError(f"{name}: expected {expected}, got {part!r}")
        options[key] = value
    return name, options


def _number(name: str, options: dict[str, str], key: str, value: int | None) -> int | None:
    """Return an argument, or the option of that name in its place; InputError for both."""
    if (text := options.pop(key, None)) is None:
        return value
    if value is not None or not text.isdecimal():
        raise InputError(f"{name}: expected one {key}, a whole number, got {text!r} and {value}")
    return int(text)


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
    name: str | os.PathLike[str], split: str = "train", data_dir: str | os.PathLike[str] | None = None,
    size: int | None = None, limit: int | None = None, *, severity: int | None = None, download: bool = True,
) -> ImageSet | FolderSet:  # fmt: skip
    """Load a data set by name, or a constructed set by its folder; images are served as float32 in [0, 1].

    Args:
        name: "digits" (embedded), "mnist", "cifar10", "cifar100", "svhn", "cifar10-c", "cifar100-c",
            "imagefolder", "restricted_imagenet", "imagenet". Options follow: "imagefolder:size=32" is `size`,
            "imagenet:preprocessing=Crop288,ids=FILE" selects and prepares images, and
            "cifar10-c:corruption=fog,severity=3" is `split` and `severity`.
        split: "train" or "test"; the named images of ImageNet are only for testing. Of class folders that are
            not split, a fifth of each class, told by the names of the files, is the test set, and "all" reads
            every image, as of a folder imagenet-c/fog/3. Of "cifar10-c" and "cifar100-c", a corruption, as
            `fa.data.corrupted` names them.
        data_dir: the folder that holds MNIST/, cifar10/ or CIFAR-10-C/, or the class folders themselves for
            the last three; None takes the environment variable FASTADV_DATA, else a folder in the user's
            cache, into which mnist, cifar10, cifar100 and svhn are downloaded.
        size: height and width of the images (images on disk: the shorter side is resized, then the center is
            cut out); None keeps their own.
        limit: keep only this many images: the first ones, or of a sorted set, as of class folders, some that
            are drawn by class with a fixed seed, which a warning and the set's note say. None keeps all.
        severity: from 1 to 5, of "cifar10-c" and "cifar100-c"; None for all others.
        download: whether a missing set may be downloaded.

    Returns:
        An `ImageSet`, or for images on disk a `FolderSet`.

    Raises:
        InputError: an unknown name, option or split, a missing folder or file, or a class without images.
        CorruptFileError: a file is damaged.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", size=10, limit=100)
        >>> tuple(digits.x.shape), digits.num_classes
        ((100, 1, 10, 10), 10)
    """
    if not is_named(name := os.fspath(name)) and is_set(name):
        if split != "train" or size is not None or severity is not None:
            raise InputError(f"{name}: expected no split, size or severity, as a constructed set has its own")
        return part_of(load_folder(name), limit)  # type: ignore[no-any-return]
    name, options = _parse(name)
    size = _number(name, options, "size", size)
    severity = _number(name, options, "severity", severity)
    if name not in ARCHIVES or "corruption" in options:
        check_choice("split", split, ("train", "test", "all") if name == "imagefolder" else ("train", "test"))
    if name not in ARCHIVES and severity is not None:
        raise InputError(f"{name}: expected no severity, got {severity!r}; fa.data.corrupted takes one")
    split = options.pop("corruption", split)
    for what, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"expected {what} >= 1, got {value}")
    dataset: Any
    if name in _FILES:
        if not (data_dir or os.environ.get("FASTADV_DATA")):
            raise InputError(
                f"{name}: expected the folder of the images, got none; name it with data_dir or FASTADV_DATA"
            )
        dataset = _FILES[name](data_folder(data_dir), split, size, **options)
    else:
        if name == "digits":
            dataset = digits(split)
        elif name in ARCHIVES:
            dataset = archived(data_folder(data_dir), name, split, severity)
        else:
            first = {"limit": limit} if name == "cifar10" else {}  # JPEG copies are decoded one by one
            dataset = _DOWNLOADED[name](data_folder(data_dir), split, download, **first)
        dataset = _resized(dataset, size) if size else dataset
        dataset.fixed_order = True  # everybody's first N images of a published set are the same
    return part_of(dataset, limit)  # type: ignore[no-any-return]


def load_folder(folder: str | os.PathLike[str]) -> ImageSet:
    """Load the set that a construction wrote, verified by its hashes, or one that Ilyas et al. published.

    Args:
        folder: of the set.

    Returns:
        An `ImageSet`.

    Raises:
        InputError: the folder holds none of these.
        CorruptFileError: files are missing or damaged.

    Source:
        github.com/MadryLab/constructed-datasets, whose README joins the list of tensors that each of the
        files CIFAR_ims and CIFAR_lab holds.
    """
    path = Path(folder)
    if (path / INDEX).is_file():
        from fastadv.data.construct import (
            load_constructed,  # who only loads images need not import the engine
        )

        return load_constructed(path)
    if not (path / IMAGES).is_file():
        raise InputError(
            f"{path}: expected a folder with {INDEX} or {IMAGES}, as constructions and Ilyas et al. write "
            "them, got none; read plain image folders with load('imagefolder', data_dir=...)"
        )
    x, y = _joined(path / IMAGES).float(), _joined(path / LABELS).long()
    count = max(0, int(y.max())) + 1
    # ten classes are those of CIFAR-10
    return ImageSet(x, y, CLASSES if count == len(CLASSES) else count, path.name)


def is_set(folder: str | os.PathLike[str]) -> bool:
    return any((Path(folder) / name).is_file() for name in (INDEX, IMAGES))


def _joined(path: Path) -> torch.Tensor:
    content = load_torch(path, "a torch file with a list of tensors", "get it again")
    try:
        return content if isinstance(content, torch.Tensor) else torch.cat(list(content))
    except (TypeError, RuntimeError) as error:  # other things, or tensors that do not fit together
        raise CorruptFileError(
            f"{path}: expected a torch file with a list of tensors, got one with other things "
            f"({error}); get it again"
        ) from error
