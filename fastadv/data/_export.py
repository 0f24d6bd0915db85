"""A set in the layout in which Ilyas et al. 2019 published theirs, and back.

Source: github.com/MadryLab/constructed-datasets, whose README joins the list of tensors that each file holds.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from fastadv.data.imageset import ImageSet, to_unit
from fastadv.data.published import CLASSES
from fastadv.data.shards import INDEX
from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.card import data_hash
from fastadv.runs.files import load_torch, read_json, write_json, writing

CARD, IMAGES, LABELS = "card.json", "CIFAR_ims", "CIFAR_lab"
_FORMAT = "fastadv.export.1"


def export(dataset: ImageSet, folder: str | PathLike[str]) -> None:
    """Write a set of images, constructed or not, into a new folder for other programs to read.

    Its layout is that in which Ilyas et al. published their sets: files CIFAR_ims and CIFAR_lab of
    torch.save, each a list of tensors to be joined, images as float32 [N, C, H, W] in [0, 1] and labels as
    int64 [N]. A file card.json says what the set is, how it was made, and its hash, by which `load_folder`
    finds the same set again. A folder is written whole or not at all.

    Args:
        dataset: an `ImageSet`.
        folder: new or empty.

    Raises:
        InputError: the folder is not empty, or labels are probabilities.
        OSError: the disk is full.
    """
    if not isinstance(dataset, ImageSet):
        raise InputError(
            f"dataset: expected a set in memory, got {type(dataset).__name__}; read it with in_memory()"
        )
    if dataset.soft:
        raise InputError(
            "dataset: expected classes as labels, got probabilities, for which the layout has no place; "
            "export dataset.relabeled(dataset.labels)"
        )
    dtype = str(dataset.dtype).removeprefix("torch.")
    with _whole(Path(folder)) as part, writing(Path(folder)):
        for name, tensor in ((IMAGES, to_unit(dataset.x)), (LABELS, dataset.y)):
            torch.save([tensor.cpu().contiguous()], part / name)
        write_json(part / CARD, {"format": _FORMAT, "dtype": dtype, "set": dataset.describe()})


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
    if (path / IMAGES).is_file():
        return _published(path)
    raise InputError(
        f"{path}: expected a folder with {INDEX}, {CARD} or {IMAGES}, as constructions and exports "
        "write them, got none; read plain image folders with load('imagefolder', data_dir=...)"
    )


def is_set(folder: str | PathLike[str]) -> bool:
    """Return whether `load_folder` knows the folder."""
    return any((Path(folder) / name).is_file() for name in (INDEX, CARD, IMAGES))


def _exported(path: Path) -> ImageSet:
    card = read_json(path / CARD)
    if not isinstance(card, dict) or card.get("format") != _FORMAT:
        raise CorruptFileError(f"{path / CARD}: expected the card of an exported set, got another file")
    x, y, about = _joined(path / IMAGES), _joined(path / LABELS).long(), card["set"]
    x = (x * 255).round().to(torch.uint8) if card["dtype"] == "uint8" else x
    if data_hash(x, y) != about["data_hash"]:
        raise CorruptFileError(
            f"{path}: expected images and labels whose hash {CARD} names, got others; export the set again"
        )
    return ImageSet(x, y, about["classes"], about["name"], note=about["note"])


def _published(path: Path) -> ImageSet:
    """Return a set without a card: ten classes are those of CIFAR-10, as many others as the labels need."""
    x, y = _joined(path / IMAGES).float(), _joined(path / LABELS).long()
    count = max(0, int(y.max())) + 1
    return ImageSet(x, y, CLASSES if count == len(CLASSES) else count, path.name)


def _joined(path: Path) -> Tensor:
    content = load_torch(path, "a torch file with a list of tensors", "get it again")
    try:
        return content if isinstance(content, Tensor) else torch.cat(list(content))
    except (TypeError, RuntimeError) as error:  # other things, or tensors that do not fit together
        raise CorruptFileError(
            f"{path}: expected a torch file with a list of tensors, got one with other things "
            f"({error}); get it again"
        ) from error


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
