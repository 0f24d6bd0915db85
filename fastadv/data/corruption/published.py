"""CIFAR-10-C and CIFAR-100-C as they were published: an array for each corruption."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastadv._checks import check_choice
from fastadv.data.corruption.card import CORRUPTIONS, SEVERITIES, check_severity
from fastadv.data.imageset import ImageSet
from fastadv.data.published import CLASSES
from fastadv.errors import CorruptFileError, InputError

# The folder that each archive unpacks to, and the record of Zenodo that holds it
ARCHIVES = {"cifar10-c": ("CIFAR-10-C", 2535967), "cifar100-c": ("CIFAR-100-C", 3555552)}
AGAIN = "unpack the archive again"


def archived(root: Path, name: str, corruption: str, severity: Any) -> ImageSet:
    """Return a severity of a corruption, from the files in `root` or in the archive's folder below it."""
    archive, _ = ARCHIVES[name]
    check_choice("corruption", corruption, CORRUPTIONS)
    folder = root if (root / "labels.npy").is_file() else root / archive
    dataset = published_set(folder, corruption, severity)
    if not dataset.name.startswith(f"{name} "):
        raise InputError(f"{name}: expected the files of {archive} in {folder}, got those of {dataset.name}")
    return dataset


def published_set(folder: Path, name: str, severity: int) -> ImageSet:
    """Return the images of one severity of a corruption, from the arrays of CIFAR-10-C or CIFAR-100-C.

    NAME.npy is uint8 [5 N, 32, 32, 3], its severities one after another; labels.npy holds 5 N labels.
    """
    severity = check_severity(severity)
    images, labels = _mapped(folder / f"{name}.npy"), _mapped(folder / "labels.npy")
    count, left = divmod(images.shape[0] if images.ndim else 0, len(SEVERITIES))
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or left or not count:
        got = f"{images.dtype} {list(images.shape)}"
        raise CorruptFileError(f"{folder / name}.npy: expected uint8 [5 N, 32, 32, 3], got {got}; {AGAIN}")
    y = np.asarray(labels)
    fits = y.dtype.kind in "iu" and y.shape == images.shape[:1]
    if not fits or (y.reshape(-1, count) != y[:count]).any():
        wanted = f"{len(images)} integers, the same {count} for each severity"
        got = f"{y.dtype} {list(y.shape)}" + " that differ" * fits
        raise CorruptFileError(f"{folder / 'labels.npy'}: expected {wanted}, got {got}; {AGAIN}")
    first = (severity - 1) * count
    x = torch.from_numpy(images[first : first + count].transpose(0, 3, 1, 2).copy())
    y = y[:count].astype(np.int64)
    archive, classes = ("cifar10-c", CLASSES) if y.max() < len(CLASSES) else ("cifar100-c", 100)
    note = f"published files of {ARCHIVES[archive][0]}, not regenerated"
    dataset = ImageSet(x, torch.from_numpy(y), classes, f"{archive} {name} {severity}", note=note)
    dataset.fixed_order = True
    return dataset


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    if not path.is_file():
        files = " or ".join(f"{name} (zenodo.org/records/{number})" for name, number in ARCHIVES.values())
        raise InputError(f"{path}: expected a file of {files}, got none; unpack them, or name the folder")
    try:
        mapped: np.ndarray[Any, Any] = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        said = f"{path}: expected a whole npy file, got one that does not read ({error}); {AGAIN}"
        raise CorruptFileError(said) from error
    return mapped
