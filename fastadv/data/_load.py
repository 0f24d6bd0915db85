"""Data sets by name, the caller's own among them, and constructed ones by their folder."""

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from fastadv._checks import check_choice, knowing
from fastadv._extras import own
from fastadv.arguments import WORDS, name_and_arguments, nameable, parse_arguments
from fastadv.data._batches import Reader
from fastadv.data.corruption.published import ARCHIVES, archived
from fastadv.data.folder import FolderSet, imagefolder
from fastadv.data.given import as_dataset
from fastadv.data.imageset import Images, ImageSet, to_unit
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
# Options after a name, as in imagenet:preprocessing=Crop288; other sets take digits:size=32
_OPTIONS: dict[str, tuple[str, ...]] = {
    "imagenet": ("preprocessing", "ids"), "imagefolder": ("size", "channels")
}  # fmt: skip
_OPTIONS |= dict.fromkeys(ARCHIVES, ("corruption", "severity", "size"))


def names() -> tuple[str, ...]:
    return _NAMES


def is_named(text: str) -> bool:
    return text.partition(":")[0] in _NAMES


def has_test(text: str) -> bool:
    """Return whether data of that name have a test split: constructed sets have none."""
    name = name_and_arguments(text, _NAMES)[0]
    return is_named(text) or (":" in name and "split" in inspect.signature(own("data set", name)).parameters)


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
    others = ', for class folders "imagefolder" with data_dir=, or your own as package.module:function'
    check_choice("data set", name, _NAMES, others)
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


@knowing
def load(
    name: str | os.PathLike[str], split: str = "train", data_dir: str | os.PathLike[str] | None = None,
    size: int | None = None, limit: int | None = None, *, severity: int | None = None,
    channels: int | None = None, download: bool = True,
) -> ImageSet | FolderSet:  # fmt: skip
    """Load a data set by name, or a constructed set by its folder; images are served as float32 in [0, 1].

    Args:
        name: "digits" (embedded), "mnist", "cifar10", "cifar100", "svhn", "cifar10-c", "cifar100-c",
            "imagefolder", "restricted_imagenet", "imagenet". Options follow: "imagefolder:size=32" is `size`,
            "imagenet:preprocessing=Crop288,ids=FILE" selects and prepares images, and
            "cifar10-c:corruption=fog,severity=3" is `split` and `severity`. Or your own, as
            "package.module:function": it returns a set, a pair (x, y) or a DataLoader, and is called with
            those of `split`, `limit`, `data_dir` and `size` that it takes. What is no set of this library is
            read as a whole.
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
        channels: of "imagefolder": 1 reads images as gray ones, None or 3 in color.
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
    if ":" in name_and_arguments(name, _NAMES)[0]:
        asked = {"data_dir": data_dir, "size": size, "severity": severity, "channels": channels}
        return _own(name, {"split": split, "limit": limit}, asked)  # type: ignore[no-any-return]
    name, options = _parse(name)
    size = _number(name, options, "size", size)
    severity = _number(name, options, "severity", severity)
    channels = _number(name, options, "channels", channels)
    if channels is not None and (name != "imagefolder" or channels not in (1, 3)):
        raise InputError(
            f"channels: expected 1 or 3 of imagefolder, None of others, got {channels} of {name}"
        )
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
        kind = {} if channels is None else {"channels": channels}
        dataset = _FILES[name](data_folder(data_dir), split, size, **options, **kind)
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


def _own(text: str, offered: dict[str, Any], asked: dict[str, Any]) -> Any:
    """Return the set of a function of the caller's own, which takes what is asked for."""
    name, tail = name_and_arguments(text, _NAMES)
    make = own("data set", name)
    takes = inspect.signature(make).parameters
    asked = {key: value for key, value in asked.items() if value is not None}
    for key in asked.keys() - takes.keys():
        raise InputError(
            f"{key}: expected none, as {name} does not take it, got {asked[key]!r}; leave it out"
        )
    arguments = {key: value for key, value in offered.items() if key in takes} | asked
    untold = {key: {*WORDS} for key, one in takes.items() if one.annotation is one.default is one.empty}
    arguments |= parse_arguments(f"data set {text!r}", name, tail, untold | nameable(takes))
    try:
        bound = inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise InputError(f"{name}: {error}; write {name}:KEY=VALUE") from error
    data = make(*bound.args, **bound.kwargs)
    if not isinstance(data, Images):
        dataset = as_dataset(data, name)
        x, y, _ = map(torch.cat, zip(*Reader(dataset, 256).batches(), strict=True))
        classes = getattr(dataset, "classes", int(y.max()) + 1)
        title = f"{name} {bound.arguments.get('split', '')}".rstrip()
        data = ImageSet(x, y, classes, title, ndim=x.ndim)
    return part_of(data, offered["limit"])


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
