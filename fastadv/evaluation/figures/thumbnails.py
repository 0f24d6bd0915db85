"""Constructed sets: samples of each class above what was made of them."""

from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.data import ConstructedSet, batches
from fastadv.data.imageset import to_unit
from fastadv.evaluation.figures.images import Strip, strips

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, MOST = 10, 20  # classes side by side, and at most


def thumbnails(
    made: ConstructedSet, base: Dataset[Any], path: str | PathLike[str] | None = None, *, per_class: int = 3
) -> "Figure":
    """Draw samples of each class: the source image with its label, below it the constructed one.

    A column is a class of the sources, of which at most 20 are drawn, evenly spaced. Labels that differ from
    the source's are orange. Where the smallest class has fewer samples, that number is drawn of each.

    Args:
        made: the constructed set.
        base: the data set it was made from.
        path: of a file to write: .png, .pdf or .svg.
        per_class: samples of each class.

    Returns:
        The matplotlib figure.

    Raises:
        InputError: images are neither gray nor RGB, or the path has another ending.
    """
    check_count("per_class", per_class, 1)
    labels, new = made.original_labels.cpu(), made.labels.cpu()
    counts = labels.bincount()
    classes = counts.nonzero()[:, 0]
    shown = classes[torch.linspace(0, len(classes) - 1, min(MOST, len(classes)), device="cpu").long()]
    per_class = min(per_class, int(counts[classes].min()))
    chosen = torch.stack([(labels == k).nonzero()[:per_class, 0] for k in shown], dim=1)
    rows: list[Strip] = []
    for places in (turn for columns in torch.split(chosen, COLUMNS, dim=1) for turn in columns):
        order = made.ids.cpu()[places]
        x, _, _ = next(batches(base, len(places), order=order, workers=0, box=made.box))
        names = [[made.classes[k] for k in kinds[places].tolist()] for kinds in (labels, new)]
        changed, images = (new != labels)[places], to_unit(made.take(places)).cpu()
        rows.append(Strip("source", x.cpu(), names[0], apart=0.12, box=made.box))
        rows.append(Strip("constructed", images, names[1], changed, box=made.box))
    drawn = f", {len(shown)} of {len(classes)} classes" if len(shown) < len(classes) else ""
    return strips(
        rows,
        path=path,
        title=f"Constructed set: {made.name.replace('_', ' ')}",
        subtitle=f"each image with its label, orange where that is not the label of the source{drawn}",
    )
