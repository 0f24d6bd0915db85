"""The figures of the study: accuracy against distance, the smallest adversarials, and what models imagine."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastadv as fa
from fastadv.models.abs.calibrate import confidence_floor
from fastadv.studies.schott2018 import summary
from fastadv.studies.schott2018.plan import SYNTHESES, Cell, Settings
from fastadv.studies.schott2018.published import THRESHOLDS, TITLES, published
from fastadv.studies.schott2018.subjects import Subject, Subjects
from fastadv.studies.schott2018.work import Done, Images, Work, distal
from fastadv.studies.study import Watch
from fastadv.threat import THREATS

RIGHT = {"l2": 5.0, "linf": 0.55, "l0": 60.0}
LATENT_DESCENT = "Latent descent"
Outcomes = Mapping[Cell, Done]


def all_figures(
    settings: Settings,
    subjects: Subjects,
    work: Work,
    outcomes: Outcomes,
    bounds: Mapping[tuple[str, str], Done],
    folder: Path,
    watch: Watch,
) -> dict[str, str]:
    """Draw them in `folder`; the path of each by what it shows."""
    watch("drawing", 0, 2)
    drawn = {
        "accuracy under the paper's attacks": _against_published(settings, outcomes, folder),
        "accuracy under all attacks": _against_bounds(settings, outcomes, bounds, folder),
    }
    for norm in settings.norms:
        drawn[f"the smallest adversarials, {THREATS[norm].symbol}"] = _gallery(
            settings, subjects, work.images, outcomes, norm, folder
        )
    watch("drawing", 1, 2)
    drawn["latent descent and distal images"] = _imagined(settings, subjects, work, outcomes, folder)
    return {what: str(path) for what, path in drawn.items() if path is not None}


def curve(distance: Tensor) -> tuple[list[float], list[float]]:
    """(distances, accuracy): the share of images that no perturbation up to each distance breaks."""
    ordered = distance.double().sort().values
    finite = ordered[ordered.isfinite()]
    across, up, left = [0.0], [float((distance > 0).double().mean())], len(distance)
    start = len(distance) - int((distance > 0).sum())
    for place, value in enumerate(finite[start:].tolist(), start=start + 1):
        across += [value, value]
        up += [up[-1], (left - place) / left]
    return [*across, math.inf], [*up, up[-1]]


def _against_published(settings: Settings, outcomes: Outcomes, folder: Path) -> Path | None:
    parts = []
    for norm in settings.norms:
        lines = _lines(settings, outcomes, norm, today=False)
        known = {TITLES[model]: published()[norm, model] for model in settings.models}
        reference = {name: (k.distance, k.accuracy) for name, k in known.items() if name in lines}
        parts.append(_panel(norm, lines, reference))
    return _panels(
        parts, folder / "published.png", "Accuracy under the attacks of the paper", "here", "published"
    )


def _against_bounds(
    settings: Settings, outcomes: Outcomes, bounds: Mapping[tuple[str, str], Done], folder: Path
) -> Path | None:
    parts = []
    for norm in settings.norms:
        lines = _lines(settings, outcomes, norm, today=True)
        radii = {TITLES[m]: bounds[norm, m].tensors["radius"] for m in SYNTHESES if (norm, m) in bounds}
        reference = {name: curve(radius) for name, radius in radii.items() if name in lines}
        parts.append(_panel(norm, lines, reference))
    title = "Accuracy under all attacks, and what ABS guarantees"
    return _panels(parts, folder / "all.png", title, "attacks", "lower bound")


def _lines(settings: Settings, outcomes: Outcomes, norm: str, *, today: bool) -> dict[str, Any]:
    found = {model: summary.least(outcomes, model, norm, today=today) for model in settings.models}
    return {TITLES[model]: curve(part.distance) for model, part in found.items() if part is not None}


def _panel(norm: str, lines: Mapping[str, Any], reference: Mapping[str, Any]) -> fa.figures.Panel:
    name = f"{THREATS[norm].symbol} distance"
    return fa.figures.Panel(name, RIGHT[norm], _cut(lines, norm), _cut(reference, norm), THRESHOLDS[norm])


def _cut(lines: Mapping[str, Any], norm: str) -> dict[str, Any]:
    """Lines that go on beyond the panel, without infinite distances, which matplotlib cannot draw."""
    return {
        name: ([min(value, 2 * RIGHT[norm]) for value in distances], accuracy)
        for name, (distances, accuracy) in lines.items()
    }


def _panels(parts: list[fa.figures.Panel], path: Path, title: str, drawn: str, reference: str) -> Path | None:
    parts = [part for part in parts if part.lines]
    if not parts:
        return None
    fa.figures.panels(parts, path, title=title, drawn=drawn, reference=reference)
    return path


def one_of_each_class(images: Images) -> Tensor:
    """The places of the first image of each class, in the order of the classes."""
    places = [(images.y == k).nonzero() for k in range(images.classes)]
    return torch.tensor([int(place[0]) for place in places if len(place)])


def _gallery(
    settings: Settings, subjects: Subjects, images: Images, outcomes: Outcomes, norm: str, folder: Path
) -> Path | None:
    """The clean images, and for each model the smallest adversarials over all attacks."""
    places = one_of_each_class(images)
    clean, labels = images.x.cpu()[places], images.y.cpu()[places]
    rows = [fa.figures.Strip("clean", clean, labels.tolist())]
    for model in settings.models:
        found = summary.least(outcomes, model, norm)
        if found is not None:
            distance, x_adv = found.distance[places], found.x_adv[places]
            rows.append(_row(subjects[model], TITLES[model], x_adv, distance))
    if len(rows) == 1:
        return None
    path = folder / f"smallest_{norm}.png"
    fa.figures.strips(
        rows,
        path,
        title=f"The smallest {THREATS[norm].symbol} perturbations found",
        subtitle="below each image the class that the model sees, and the distance to the clean one",
    )
    return path


def _row(subject: Subject, name: str, x_adv: Tensor, distance: Tensor) -> fa.figures.Strip:
    device = next(iter(subject.model.state_dict().values())).device
    seen = fa.freeze(subject.model).verdict(x_adv.to(device)).argmax(1).tolist()
    captions = [
        f"{k}\n{d:.3g}" if d < math.inf else f"{k}\nheld"
        for k, d in zip(seen, distance.tolist(), strict=True)
    ]
    return fa.figures.Strip(name, x_adv, captions, (distance > 0) & distance.isfinite())


def _imagined(
    settings: Settings, subjects: Subjects, work: Work, outcomes: Outcomes, folder: Path
) -> Path | None:
    """Latent descent on ABS, and images that start from noise until each model is confident of a class."""
    images = work.images
    places = one_of_each_class(images)
    rows: list[fa.figures.Strip] = []
    for cell, done in outcomes.items():
        if cell.method.name == LATENT_DESCENT:
            if not rows:
                rows.append(fa.figures.Strip("clean", images.x.cpu()[places], images.y[places].tolist()))
            x_adv, distance = done.tensors["x_adv"][places], done.tensors[cell.method.norm][places]
            rows.append(_row(subjects[cell.model], f"latent descent, {TITLES[cell.model]}", x_adv, distance))
    classes = torch.arange(images.classes, device=images.x.device)
    blank = Images(images.x.new_zeros(len(classes), *images.x.shape[1:]), classes, classes, images.classes)
    noise = Work(work.folder, blank, work.seed)
    # a binary model sees no difference between gray and white, and distal images end between them
    for place, model in enumerate(name for name in settings.models if subjects[name].threshold is None):
        subject = subjects[model]
        made = distal(noise, subject, _floor(subject, images)).tensors
        captions = [f"{k}\n{share:.0%}" for k, share in enumerate(made["confidence"].tolist())]
        name = f"from noise, {TITLES[model]}"
        rows.append(fa.figures.Strip(name, made["x"], captions, apart=0.0 if place else 0.12))
    if not rows:
        return None
    path = folder / "imagined.png"
    fa.figures.strips(
        rows,
        path,
        title="Latent descent and distal images",
        subtitle="the class that the model sees and the distance; below, uniform noise raised to a "
        "confidence of 90% in each class, with the confidence that was reached",
    )
    return path


def _floor(subject: Subject, images: Images) -> float:
    """eta of the confidence: the median on the clean images is 0.9 (Schott et al. 2018)."""
    if subject.floor is not None:
        return subject.floor
    return confidence_floor(-fa.freeze(subject.model).verdict(images.x), subject.scale)
