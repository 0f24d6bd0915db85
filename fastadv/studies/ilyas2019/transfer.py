"""Section 3.3: what an architecture learns from D_det of a net, and what of that net fools it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.evaluation.figures.style import (
    BLUE,
    FAINT,
    GRID,
    INK,
    leader,
    new_figure,
    plain,
    save,
    spread,
)  # fmt: skip
from fastadv.studies.ilyas2019.maker import Maker, read, share
from fastadv.studies.ilyas2019.plan import Training
from fastadv.studies.ilyas2019.published import TRANSFER

FEWEST = 3  # points that a correlation is told of
TOP = 105  # percent, where the axis ends


def transfer(maker: Maker) -> dict[str, Any]:
    """Return how each architecture learns from D_det, and how often the standard net's adversarials fool it.

    That share is of the test images that a net trained on the images reads correctly and loses, among those
    on which the attack fooled its source.
    """
    test, d_det = maker.test, maker.set("D_det")
    points: list[dict[str, Any]] = []
    clean, attacked, fooled = _adversarials(maker)
    for other in maker.settings.others:
        on = partial(maker.taught, architecture=other)
        taught = on(f"{other.title} on D_det", d_det, maker.settings.training["fixed_shift"])
        target = on(f"{other.title} on D", maker.base, Training())
        right = (read(target, clean) == clean.y) & fooled
        lost = right & (read(target, attacked) != clean.y)
        points.append(
            {
                "architecture": other.title,
                "clean": share(read(target, test) == test.y),
                "accuracy": share(read(taught, test) == test.y),
                "transfer": int(lost.sum()) / int(right.sum()) if right.any() else None,
                "attacked": int(right.sum()),
            }
        )
    pairs = [(point["accuracy"], point["transfer"]) for point in points if point["transfer"] is not None]
    return {"points": points, **correlated(pairs, maker.settings.seed)}


def _adversarials(maker: Maker) -> tuple[ImageSet, ImageSet, Tensor]:
    """Return (test images, the same attacked on the standard net, which of these it lost [N])."""
    s, test, what = maker.settings, maker.test, "attacking standard for transfer"
    attack = partial(
        fa.attacks.pgd, threat=fa.L2(s.push_radius), steps=s.attack_steps, loss="ce", stop_early=False,
        seed=s.seed,
    )  # fmt: skip
    source = maker.net("standard")
    maker.watch(what, 0, 1)
    table = fa.evaluate(
        source, test, {s.attack(s.push_radius): attack}, limit=s.tested, keep_samples=True,
        run_dir=maker.folder / "evaluation" / "transfer", resume=True, indicators=False,
    )  # fmt: skip
    maker.watch(what, 1, 1)
    kept = table.samples
    assert kept is not None
    x_adv, x, y = (part.cpu() for part in (kept.x_adv.float(), kept.x.float(), kept.y))
    attacked = ImageSet(x_adv, y, test.classes, f"{test.name}, attacked")
    return ImageSet(x, y, test.classes, test.name), attacked, kept.success.cpu() & table.correct


def correlated(pairs: Sequence[tuple[float, float]], seed: int = 0) -> dict[str, Any]:
    """Return the correlation of the points and its 95% bootstrap interval; None for fewer than three."""
    if len(pairs) < FEWEST:
        return {"correlation": None, "interval": None}
    interval = fa.evaluation.bootstrap(np.asarray(pairs), _correlation, seed=seed)
    return {"correlation": _correlation(np.asarray(pairs)), "interval": [interval.low, interval.high]}


def _correlation(points: NDArray[Any]) -> float:
    """Pearson's; 0 where one of the two does not vary, as in a resample of one point."""
    if np.ptp(points, axis=0).min() == 0:
        return 0.0
    return float(np.corrcoef(points.T)[0, 1])


def scatter(found: Mapping[str, Any], path: Path, source: str) -> None:
    """Draw accuracy against transfer success, a point for each architecture, with the paper's in gray."""
    figure = new_figure(5.8, 4.0, "Learned from D_det, and fooled by transfer")
    axes = figure.add_axes((0.12, 0.13, 0.62, 0.7))
    plain(axes)
    axes.grid(color=GRID, linewidth=0.6)
    ours = {
        point["architecture"]: (point["accuracy"], point["transfer"])
        for point in found["points"]
        if point["transfer"] is not None
    }
    attacked = {point["architecture"]: point.get("attacked") for point in found["points"]}
    most = max(across for across, _ in (*TRANSFER.values(), *ours.values()))
    axes.set(xlim=(0, 105 * most), ylim=(0, TOP))
    named: list[tuple[str, tuple[float, float], str]] = []
    for points, color, filled in ((TRANSFER, FAINT, "none"), (ours, BLUE, BLUE)):
        for name, (across, up) in points.items():
            at = 100 * across, 100 * up
            axes.plot(*at, "o", color=color, markerfacecolor=filled, markersize=6, zorder=3)
            if points is ours and (count := attacked.get(name)):
                whole = [100 * end for end in fa.evaluation.clopper_pearson(round(up * count), count)]
                axes.plot([at[0]] * 2, whole, color=color, linewidth=1.2, zorder=2)
            named.append((name, at, color))
    heights = spread([up / TOP for _, (_, up), _ in named], 0.055)
    above = max(*heights, 0.97) - 0.97
    for (name, at, color), height in zip(named, heights, strict=True):
        axes.annotate(
            name, at, (1.03, height - above), textcoords="axes fraction", fontsize=8, color=color,
            arrowprops=leader(color, gap=4), va="center",
        )  # fmt: skip
    axes.axvline(10, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
    axes.text(10.3, 1, "guessing", fontsize=7.5, color=FAINT)
    axes.set_xlabel("accuracy of a net taught by D_det, %", fontsize=9, color=INK)
    axes.set_ylabel("transfer success of adversarial examples, %", fontsize=9, color=INK)
    told = f"filled: here, of a {source}, with 95% intervals\nempty: the paper, of a ResNet-50 on CIFAR-10"
    axes.set_title(told, fontsize=8, color=FAINT, loc="left")
    save(figure, path)
