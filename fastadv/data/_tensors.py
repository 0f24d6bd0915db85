"""Sets as torch files of tensors, in the layout in which Ilyas et al. 2019 published theirs.

Source: github.com/MadryLab/constructed-datasets, whose README joins the list of tensors that each file holds.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.data.cifar10 import CLASSES
from fastadv.data.imageset import ImageSet, to_unit
from fastadv.errors import CorruptFileError
from fastadv.runs.files import atomic_write, load_torch

IMAGES, LABELS = "CIFAR_ims", "CIFAR_lab"


def write(dataset: ImageSet, folder: Path, progress: Callable[[int, int], None]) -> None:
    """Write both files, each a list of one tensor."""
    for name, tensor in ((IMAGES, to_unit(dataset.x)), (LABELS, dataset.y)):
        with atomic_write(folder / name) as part:
            torch.save([tensor.cpu().contiguous()], part)
    progress(len(dataset), len(dataset))


def read(folder: Path, card: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Images, in the type that they had in the set, and labels."""
    x, y = _joined(folder / IMAGES), _joined(folder / LABELS)
    return ((x * 255).round().to(torch.uint8) if card["dtype"] == "uint8" else x), y.long()


def published(folder: Path) -> ImageSet:
    """Return a set without a card: ten classes are those of CIFAR-10, as many others as the labels need."""
    x, y = _joined(folder / IMAGES).float(), _joined(folder / LABELS).long()
    count = max(0, int(y.max())) + 1
    return ImageSet(x, y, CLASSES if count == len(CLASSES) else count, folder.name)


def _joined(path: Path) -> Tensor:
    content = load_torch(path, "a torch file with a list of tensors", "get it again")
    try:
        return content if isinstance(content, Tensor) else torch.cat(list(content))
    except (TypeError, RuntimeError) as error:  # other things, or tensors that do not fit together
        raise CorruptFileError(
            f"{path}: expected a torch file with a list of tensors, got one with other things "
            f"({error}); get it again"
        ) from error
