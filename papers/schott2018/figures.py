"""The figures of the study: accuracy against distance, the smallest adversarials, and what models imagine."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

import fastadv as fa
from fastadv.evaluation.figures import Strip
from fastadv.threat import THREATS
from papers import drawing as style
from papers.drawing import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, VERMILION
from papers.schott2018.plan import SYNTHESES, THRESHOLDS, TITLES, Settings, published
from papers.schott2018.report import Key, Smallest
from papers.schott2018.subjects import Subject, Subjects
from papers.schott2018.work import Done, Images
from papers.study import one_of_each

RIGHT = {"l2": 5.0, "linf": 0.55, "l0": 60.0}  # the largest distance that is drawn in each norm
COLORS = (INK, GREEN, ORANGE, VERMILION, PURPLE, BLUE)
WIDTH, HEIGHT, GAP = 2.9, 2.3, 0.3  # inches of a panel, and between two
ALMOST = 0.02  # accuracy at which a curve need not be followed further
Line = tuple[Sequence[float], Sequence[float]]  # distances, and the accuracy at each


def draw(
    settings: Settings,
    subjects: Subjects,
    images: Images,
    found: Mapping[Key, Smallest],
    bounds: Mapping[Key, Done],
    folder: Path,
) -> dict[str, str]:
    """Draw all figures for which there is something. Returns the path of each by what it shows."""
    drawn = dict[str, Path]()
    lines = {key: curve(each.paper.distance) for key, each in found.items() if each.paper is not None}
    known: dict[Key, Line] = {key: (published()[key].distance, published()[key].accuracy) for key in lines}
    title = "Accuracy under the attacks of the paper"
    if _panels(lines, known, path := folder / "published.png", title, ("here", "published")):
        drawn["accuracy under the paper's attacks"] = path
    lines = {key: curve(each.all.distance) for key, each in found.items()}
    radii = {key: done.tensors["radius"] for key, done in bounds.items() if key[1] in SYNTHESES}
    known = {key: curve(radii[key]) for key in lines if key in radii}
    title = "Accuracy under all attacks, and what ABS guarantees"
    if _panels(lines, known, path := folder / "all.png", title, ("attacks", "lower bound")):
        drawn["accuracy under all attacks"] = path
    for norm in settings.norms:
        if rows := _smallest(subjects, images, found, norm):
            symbol = THREATS[norm].symbol
            fa.figures.strips(
                rows, path=(path := folder / f"smallest_{norm}.png"),
                title=f"The smallest {symbol} perturbations found",
                subtitle="below each image the class that the model sees, and the distance; blue: not broken",
            )  # fmt: skip
            drawn[f"the smallest adversarials, {symbol}"] = path
    return {what: str(path) for what, path in drawn.items()}


def curve(distance: Tensor) -> Line:
    """Compute the share of images that no perturbation up to each distance breaks."""
    ordered = distance.double().sort().values
    finite = ordered[ordered.isfinite()]
    across, up, left = [0.0], [float((distance > 0).double().mean())], len(distance)
    start = len(distance) - int((distance > 0).sum())
    for place, value in enumerate(finite[start:].tolist(), start=start + 1):
        across += [value, value]
        up += [up[-1], (left - place) / left]
    return [*across, math.inf], [*up, up[-1]]


def _panels(
    lines: Mapping[Key, Line], known: Mapping[Key, Line], path: Path, title: str, names: tuple[str, str]
) -> bool:
    """Draw a panel for each norm, the known lines thin and dashed; return whether there is any."""

    def of(norm: str, given: Mapping[Key, Line]) -> dict[str, Line]:
        return {model: line for (own, model), line in given.items() if own == norm}

    norms = list(dict.fromkeys(norm for norm, _ in lines))
    if not norms:
        return False
    both = [(of(norm, lines), of(norm, known)) for norm in norms]
    models = dict.fromkeys(model for own, theirs in both for model in (*own, *theirs))
    colors = dict(zip(models, COLORS, strict=False))
    left, bottom, top = 0.62, 0.45, 1.0
    width, height = left + len(norms) * (WIDTH + GAP), bottom + HEIGHT + top
    figure = style.new_figure(width, height, title)
    for place, (norm, (own, theirs)) in enumerate(zip(norms, both, strict=True)):
        at, below = (left + place * (WIDTH + GAP), bottom, WIDTH, HEIGHT), f"{THREATS[norm].symbol} distance"
        axes = style.panel(figure, at, below, "" if place else "accuracy", grid="y")
        axes.set(xlim=(0, _right(norm, own)), ylim=(0, 1))
        style.shares(axes.yaxis)
        style.mark(axes, THRESHOLDS[norm])
        for each, dash, thick in ((theirs, (0, (3, 1.5)), 1.1), (own, "-", 2.0)):
            for model, (distances, accuracy) in each.items():
                # cut where it cannot be seen: matplotlib cannot draw infinite distances
                seen = [min(value, 2 * RIGHT[norm]) for value in distances]
                axes.plot(seen, accuracy, linestyle=dash, color=colors[model], linewidth=thick, zorder=3)
        axes.tick_params(labelleft=not place)
    style.key(figure, left, top - 0.42, [(TITLES[model], "s", color) for model, color in colors.items()])
    told = (names[0], "-"), (names[1], "--"), ("distance at which the paper compares", ":")
    style.key(figure, left, top - 0.2, [(name, dash, FAINT) for name, dash in told])
    style.save(figure, path)
    return True


def _right(norm: str, lines: Mapping[str, Line]) -> float:
    """Return where the axis ends: a little beyond where the last curve falls to almost nothing."""
    ends = [
        next((d for d, up in zip(*line, strict=True) if up <= ALMOST), RIGHT[norm]) for line in lines.values()
    ]
    return min(RIGHT[norm], 1.1 * max(*ends, THRESHOLDS[norm]))


def _smallest(subjects: Subjects, images: Images, found: Mapping[Key, Smallest], norm: str) -> list[Strip]:
    """Collect an image of each class, and for each model the smallest adversarials over all attacks."""
    places = one_of_each(images.y.cpu())
    digits = 0 if norm == "l0" else 2
    clean = Strip("clean", images.x.cpu()[places], images.y.cpu()[places].tolist())
    rows = [
        _row(subjects[model], TITLES[model], all.x_adv[places], all.distance[places], digits)
        for (own, model), (_, all) in found.items()
        if own == norm
    ]
    return [clean, *rows] if rows else []


def _row(subject: Subject, name: str, x_adv: Tensor, distance: Tensor, digits: int) -> Strip:
    device = next(iter(subject.model.state_dict().values())).device
    seen = fa.freeze(subject.model).verdict(x_adv.to(device)).argmax(1).tolist()
    captions = [
        f"{k}\n{d:.{digits}f}" if d < math.inf else f"{k}\nheld"
        for k, d in zip(seen, distance.tolist(), strict=True)
    ]
    return Strip(name, x_adv, captions, distance.isinf(), BLUE)
