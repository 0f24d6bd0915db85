"""The rows of the galleries: images, and what the models see in them."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

import fastadv as fa
from fastadv.evaluation.figures import Strip
from fastadv.models.abs.calibrate import confidence_floor
from fastadv.studies.schott2018.plan import Cell, Settings
from fastadv.studies.schott2018.published import TITLES
from fastadv.studies.schott2018.subjects import Subject, Subjects
from fastadv.studies.schott2018.summary import Smallest
from fastadv.studies.schott2018.work import Done, Images, Work, distal
from fastadv.studies.study import one_of_each

LATENT_DESCENT = "Latent descent"


def smallest(
    subjects: Subjects, images: Images, found: Mapping[tuple[str, str], Smallest], norm: str
) -> list[Strip]:
    """Collect an image of each class, and for each model the smallest adversarials over all attacks."""
    places = one_of_each(images.y.cpu())
    rows = [
        _row(subjects[model], TITLES[model], all.x_adv[places], all.distance[places])
        for (own, model), (_, all) in found.items()
        if own == norm
    ]
    return [_clean(images, places), *rows] if rows else []


def imagined(
    settings: Settings, subjects: Subjects, work: Work, outcomes: Mapping[Cell, Done]
) -> list[Strip]:
    """Collect what latent descent found on ABS, and images made of noise that each model is confident of."""
    places = one_of_each(work.images.y.cpu())
    rows = [
        _row(
            subjects[cell.model], f"latent descent, {TITLES[cell.model]}",
            done.tensors["x_adv"][places], done.tensors[cell.method.norm][places],
        )
        for cell, done in outcomes.items()
        if cell.method.name == LATENT_DESCENT
    ]  # fmt: skip
    return [*([_clean(work.images, places)] if rows else []), *rows, *_from_noise(settings, subjects, work)]


def _from_noise(settings: Settings, subjects: Subjects, work: Work) -> Iterator[Strip]:
    images = work.images
    classes = torch.arange(images.classes, device=images.x.device)
    blank = Images(images.x.new_zeros(len(classes), *images.x.shape[1:]), classes, classes, images.classes)
    # a binary model sees no difference between gray and white, and distal images end between them
    for place, model in enumerate(name for name in settings.models if subjects[name].threshold is None):
        subject = subjects[model]
        made = distal(Work(work.folder, blank, work.seed), subject, _floor(subject, images)).tensors
        captions = [f"{k}\n{share:.0%}" for k, share in enumerate(made["confidence"].tolist())]
        yield Strip(f"from noise, {TITLES[model]}", made["x"], captions, apart=0.0 if place else 0.12)


def _floor(subject: Subject, images: Images) -> float:
    """Return eta of the confidence: the median on the clean images is 0.9 (Schott et al. 2018)."""
    if subject.floor is not None:
        return subject.floor
    return confidence_floor(-fa.freeze(subject.model).verdict(images.x), subject.scale)


def _clean(images: Images, places: Tensor) -> Strip:
    return Strip("clean", images.x.cpu()[places], images.y.cpu()[places].tolist())


def _row(subject: Subject, name: str, x_adv: Tensor, distance: Tensor) -> Strip:
    device = next(iter(subject.model.state_dict().values())).device
    seen = fa.freeze(subject.model).verdict(x_adv.to(device)).argmax(1).tolist()
    captions = [
        f"{k}\n{d:.3g}" if d < math.inf else f"{k}\nheld"
        for k, d in zip(seen, distance.tolist(), strict=True)
    ]
    return Strip(name, x_adv, captions, (distance > 0) & distance.isfinite())
