"""An image folder of PNG files, one folder for each class, and back to the set it was made from."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv._extras import need
from fastadv.data.folder import read_image
from fastadv.data.imageset import ImageSet, to_unit
from fastadv.errors import CorruptFileError, InputError


def class_folder_names(classes: Sequence[str]) -> list[str]:
    """Name a folder for each class, so that they sort like the classes: by the class, where that does."""
    plain = all(re.fullmatch(r"\w[\w .+-]*", name) for name in classes)
    if plain and list(classes) == sorted(set(classes)):
        return list(classes)
    digits = len(str(len(classes) - 1))
    safe = [re.sub(r"[^\w.+-]+", "_", name) for name in classes]
    return [f"{k:0{digits}}_{name}" for k, name in enumerate(safe)]


def eight_bit(x: Tensor) -> Tensor:
    """Return images [N, C, H, W] as uint8 without a loss; InputError where there would be one."""
    if x.dtype == torch.uint8:
        return x
    rounded = (x * 255).round().to(torch.uint8)
    loss = (to_unit(rounded) - x).abs().amax()
    if loss > 0:
        raise InputError(
            f"dataset: expected images that 8 bits hold, got float32 ones that would change by up to "
            f"{float(loss):.2g}; export them with kind 'torch', or construct the set with dtype='uint8'"
        )
    return rounded


def write(dataset: ImageSet, folder: Path, progress: Callable[[int, int], None]) -> None:
    """CLASS/NUMBER.png for every image."""
    need("PIL")
    from PIL import Image

    if dataset.shape[0] not in (1, 3):
        raise InputError(
            f"dataset: expected gray or RGB images, got {dataset.shape[0]} channels; export with kind 'torch'"
        )
    empty = [name for k, name in enumerate(dataset.classes) if not (dataset.labels == k).any()]
    if empty:
        raise InputError(
            f"dataset: expected images of every class, whose folders number them, got none of "
            f"{', '.join(empty[:5])}; export with kind 'torch'"
        )
    names = class_folder_names(dataset.classes)
    for name in names:
        (folder / name).mkdir()
    digits = len(str(len(dataset) - 1))
    for number, label in enumerate(dataset.labels.tolist()):
        image = eight_bit(dataset.take(torch.tensor([number])))[0].cpu()
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / names[label] / f"{number:0{digits}}.png")
        progress(number + 1, len(dataset))


def read(folder: Path, card: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return images and labels in the order of the set. CorruptFileError where a file is lost or damaged."""
    count, shape = card["samples"], card["shape"]
    digits = len(str(count - 1))
    x = torch.empty((count, *shape), dtype=torch.uint8)
    y = torch.full((count,), -1)
    for label, name in enumerate(class_folder_names(card["classes"])):
        for path in (folder / name).glob("*.png"):
            if not re.fullmatch(rf"\d{{{digits}}}", path.stem) or int(path.stem) >= count:
                raise CorruptFileError(f"{path}: expected the number of one of {count} images, got this name")
            image = read_image(path)[: shape[0]]
            if list(image.shape) != list(shape):
                raise CorruptFileError(f"{path}: expected an image of shape {shape}, got {list(image.shape)}")
            x[int(path.stem)], y[int(path.stem)] = image, label
    missing = (y < 0).nonzero().flatten().tolist()
    if missing:
        raise CorruptFileError(
            f"{folder}: expected {count} images, got {count - len(missing)}; the first that is missing is "
            f"{missing[0]:0{digits}}.png"
        )
    return (x if card["dtype"] == "uint8" else to_unit(x)), y
