"""A set of images in a layout that other programs read, and back."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from fastadv.data import _png, _tensors
from fastadv.data.imageset import ImageSet
from fastadv.data.shards import INDEX
from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.card import data_hash
from fastadv.runs.files import read_json, write_json, writing

CARD = "card.json"
_FORMAT = "fastadv.export.1"


LAYOUTS: Mapping[str, Any] = {"png": _png, "torch": _tensors}  # each writes a set into a folder, and reads it


def export(
    dataset: ImageSet,
    folder: str | PathLike[str],
    kind: str = "png",
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a set of images, constructed or not, into a new folder for other programs to read.

    A file card.json says what the set is, how it was made, and its hash, by which `load_folder` finds the
    same set again. A folder is written whole or not at all.

    Args:
        dataset: an `ImageSet`.
        folder: new or empty.
        kind: "png" is an image folder, CLASS/NUMBER.png with a sample's number in the set, lossless; a class
            whose name would sort to another place has its number before the name. "torch" is the layout in
            which Ilyas et al. published their sets: files CIFAR_ims and CIFAR_lab of torch.save, each a list
            of tensors to be joined, images as float32 [N, C, H, W] in [0, 1] and labels as int64 [N].
        progress: called with (images done, images to do).

    Raises:
        InputError: the folder is not empty; for "png", 8 bits would lose something of float32 images, images
            are neither gray nor RGB, or a class has no image, so that its folder would be missing.
        OSError: the disk is full.
    """
    if kind not in LAYOUTS:
        raise InputError(f"kind: expected one of {', '.join(LAYOUTS)}, got {kind!r}")
    if not isinstance(dataset, ImageSet):
        raise InputError(
            f"dataset: expected a set in memory, got {type(dataset).__name__}; read it with in_memory()"
        )
    if dataset.soft:
        raise InputError(
            "dataset: expected classes as labels, got probabilities, for which these layouts have no place; "
            "export dataset.relabeled(dataset.labels)"
        )
    path = Path(folder)
    about = {"format": _FORMAT, "kind": kind, "dtype": str(dataset.dtype).removeprefix("torch.")}
    with _whole(path) as part, writing(path):
        LAYOUTS[kind].write(dataset, part, progress or (lambda done, total: None))
        write_json(part / CARD, about | {"set": dataset.describe()})


def load_folder(folder: str | PathLike[str]) -> ImageSet:
    """Load the set that a construction or `export` wrote, verified by its hashes.

    Folders of the sets that Ilyas et al. published, which have no card, are read as well.

    Args:
        folder: of the set.

    Returns:
        An `ImageSet`.

    Raises:
        InputError: the folder holds none of these.
        CorruptFileError: files are missing or damaged.
    """
    path = Path(folder)
    if (path / INDEX).is_file():
        from fastadv.data.construct import load_constructed  # who only loads images need not import attacks

        return load_constructed(path)
    if (path / CARD).is_file():
        return _exported(path)
    if (path / _tensors.IMAGES).is_file():
        return _tensors.published(path)
    raise InputError(
        f"{path}: expected a folder with {INDEX}, {CARD} or {_tensors.IMAGES}, as constructions and exports "
        "write them, got none; read plain image folders with load('imagefolder', data_dir=...)"
    )


def is_set(folder: str | PathLike[str]) -> bool:
    """Return whether `load_folder` knows the folder."""
    return any((Path(folder) / name).is_file() for name in (INDEX, CARD, _tensors.IMAGES))


def _exported(path: Path) -> ImageSet:
    card = read_json(path / CARD)
    if not isinstance(card, dict) or card.get("format") != _FORMAT or card.get("kind") not in LAYOUTS:
        raise CorruptFileError(f"{path / CARD}: expected the card of an exported set, got another file")
    about = card["set"]
    x, y = LAYOUTS[card["kind"]].read(path, {**about, "dtype": card["dtype"]})
    if data_hash(x, y) != about["data_hash"]:
        raise CorruptFileError(
            f"{path}: expected the images and labels whose hash {CARD} names, got others; export the set "
            "again, or read what is there with load('imagefolder', data_dir=...)"
        )
    return ImageSet(x, y, about["classes"], about["name"], note=about["note"])


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, which takes its place when all is written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"folder: expected a new or an empty one, got {folder}; choose another")
    folder = folder.resolve()
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"folder: expected one that can be made, got {folder} ({error.strerror})") from error
    try:
        yield part
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
