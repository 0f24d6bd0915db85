"""A few images of each class of a constructed set, below those they were made from."""

from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.data import ConstructedSet, batches
from fastadv.data.imageset import to_unit
from fastadv.evaluation.figures.images import Strip, strips

COLUMNS, MOST = 10, 20  # classes side by side, and at most


def thumbnails(
    made: ConstructedSet, base: Dataset[Any], path: str | PathLike[str], *, per_class: int = 3
) -> None:
    """Draw samples of each class: the source image with its label, below it the constructed one.

    A column is a class of the sources, of which at most 20 are drawn, evenly spaced. Labels that differ from
    the source's are orange. Where the smallest class has fewer samples, that number is drawn of each.

    Args:
        made: the constructed set.
        base: the data set it was made from.
        path: of the picture: .png, .pdf or .svg.
        per_class: samples of each class.

    Raises:
        InputError: images are neither gray nor RGB, or the path has another ending.
    """
    check_count("per_class", per_class, 1)
    ids = _chosen(made.original_labels.cpu(), per_class)
    rows: list[Strip] = []
    for columns in torch.split(ids, COLUMNS, dim=1):
        for turn in columns:
            rows += _pair(made, base, turn)
    classes = int(made.original_labels.bincount().count_nonzero())
    drawn = f", {ids.shape[1]} of {classes} classes" if ids.shape[1] < classes else ""
    strips(
        rows,
        path,
        title=f"Constructed set: {made.name.replace('_', ' ')}",
        subtitle=f"each image with its label, orange where that is not the label of the source{drawn}",
    )


def _chosen(labels: Tensor, per_class: int) -> Tensor:
    """Return the positions to draw, [samples of a class, classes]: the first ones of each class."""
    counts = labels.bincount()
    classes = counts.nonzero()[:, 0]
    per_class = min(per_class, int(counts[classes].min()))
    shown = classes[torch.linspace(0, len(classes) - 1, min(MOST, len(classes)), device="cpu").long()]
    return torch.stack([(labels == k).nonzero()[:per_class, 0] for k in shown], dim=1)


def _pair(made: ConstructedSet, base: Dataset[Any], positions: Tensor) -> list[Strip]:
    """Return the rows of sources and constructed images at `positions` [M]."""
    x, _, _ = next(batches(base, len(positions), order=made.ids.cpu()[positions], workers=0, box=made.box))
    known, given = (labels.cpu()[positions] for labels in (made.original_labels, made.labels))
    return [
        Strip("source", x.cpu(), [made.classes[k] for k in known.tolist()], apart=0.12, box=made.box),
        Strip(
            "constructed",
            to_unit(made.take(positions)).cpu(),
            [made.classes[k] for k in given.tolist()],
            given != known,
            box=made.box,
        ),
    ]
