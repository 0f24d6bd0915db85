"""What the demo and the pipeline draw: nets beside the paper's, sets beside their sources."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import fastadv as fa
from fastadv.data import ConstructedSet, ImageSet
from fastadv.studies.ilyas2019.published import PAPER_ATTACK, paper
from fastadv.studies.ilyas2019.sets import KINDS
from fastadv.studies.study import one_of_each

SUBTITLE = "below each image the label that networks are trained on; an orange label is not the true one"


def bars(nets: Mapping[str, tuple[float, float]], attack: str, data: str, path: Path) -> None:
    """Draw the accuracy of each network, clean and under `attack` on `data`, with the paper's as ticks."""
    names = {name: f"{name}\n{KINDS[name].remark}" if name in KINDS else name for name in nets}
    fa.figures.bars(
        {names[name]: {"clean": clean, attack: robust} for name, (clean, robust) in nets.items()}, path,
        title="What networks learn from each training set",
        reference={
            names[name]: {"clean": own["clean"], attack: own[PAPER_ATTACK]}
            for name in nets if (own := paper(name))
        },
        reference_name="paper", chance=0.1,
        subtitle=f"Bars: accuracy on {data}, clean and under {attack}.\n"
        f"Ticks: Ilyas et al. 2019, ResNet-50 on CIFAR-10, clean and under {PAPER_ATTACK}.",
    )  # fmt: skip


def together(base: ImageSet, sets: Mapping[str, ImageSet], what: str, path: Path) -> None:
    """Draw an image of each class of the base, and what each set made of it, with the label it gives."""
    places = one_of_each(base.y)
    rows = [_strip(what, base, places, "true label")]
    rows += [_strip(name, made, places, KINDS[name].remark, base) for name, made in sets.items()]
    fa.figures.strips(rows, path, title="The constructed sets", subtitle=SUBTITLE)


def gallery(name: str, base: ImageSet, made: ConstructedSet, path: Path) -> None:
    """Draw two images of each class beside what the set `name` made of them; where pushed, also how."""
    kind, rows = KINDS[name], list[fa.figures.Strip]()
    unused = torch.ones(len(base), dtype=torch.bool)
    for _ in range(2):
        if len(places := one_of_each(base.y, unused)):
            unused[places] = False
            rows.append(_strip("source", base, places, "true label", apart=0.12))
            rows.append(_strip(name, made, places, "its label", base))
            if not kind.inverts:
                pushed = _images(made, places) - _images(base, places)
                rows.append(fa.figures.Strip("difference", pushed, difference=True))
    title = f"{name}: {kind.remark}, made with the {kind.source} net"
    fa.figures.strips(rows, path, title=title, subtitle=SUBTITLE)


def _strip(
    name: str, images: ImageSet, places: Tensor, remark: str, base: ImageSet | None = None, apart: float = 0.0
) -> fa.figures.Strip:
    labels = images.y[places]
    names = [images.classes[label] for label in labels.tolist()]
    marked = None if base is None else labels != base.y[places]
    return fa.figures.Strip(name, _images(images, places), names, marked, remark=remark, apart=apart)


def _images(images: ImageSet, places: Tensor) -> Tensor:
    return torch.stack([images[place][0] for place in places.tolist()])
