"""Section 2: how useful the features of a standard and of an adversarially trained net are, on the digits."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

import fastadv as fa
from fastadv.errors import InputError
from fastadv.runs.work import Keeper
from papers import drawing as style
from papers.drawing import BLUE, FAINT, INK, VERMILION
from papers.ilyas2019.plan import adversary
from papers.ilyas2019.usefulness import GAMMA, RHO, Kind, Usefulness, usefulness
from papers.study import Watch, load_images, publish, trained, unwatched
from papers.text import number, percent


@dataclass(frozen=True)
class Settings:
    """The digits, the nets and their training; radii are L2, in input units."""

    size: int = 10  # height and width of the digits
    seed: int = 0  # of everything random
    width: int = 8
    samples: int | None = None  # use this many training images only; None uses all
    epochs: int = 20
    batch_size: int = 64
    train_radius: float = 0.8  # of adversarial training
    train_steps: int = 7  # of the attack in adversarial training
    radius: float = 0.2  # of the adversary of the features
    steps: int = 20  # of its attack


TINY = Settings(width=4, samples=60, epochs=1, train_steps=1)


def run(settings: Settings, folder: Path, watch: Watch = unwatched) -> dict[str, Any]:
    """Train both nets in `folder`, measure and draw."""
    s, radius = settings, settings.radius
    if not 0 < radius < math.inf:
        raise InputError(f"radius: expected a finite number > 0, got {radius}")
    # from x itself: a feature has a gradient there, and steps of a quarter of the radius reach the far side
    attack = partial(fa.attacks.pgd, steps=s.steps, step_size=radius / 4, random_start=False)
    recipes: dict[str, Any] = {"standard": fa.train.Standard(), "adversarial": adversary(s)}
    base, test = (load_images("digits", part, size=s.size, limit=s.samples) for part in ("train", "test"))
    figure, found = folder / "features.png", {}
    with Keeper(folder) as keeper:
        for name, recipe in recipes.items():
            net = trained(
                "small_cnn", base, recipe, folder / "nets" / name, seed=s.seed, options={"width": s.width},
                epochs=s.epochs, batch_size=s.batch_size, progress=partial(watch, f"training {name}"),
                optimization=fa.train.Optimization(schedule="cosine"),
            )  # fmt: skip
            told = partial(watch, f"measuring {name}")
            found[name] = usefulness(net, test, fa.L2(radius), attack, batch_size=1024, progress=told)
        scatter(found, figure, title=f"Features of two nets on the digits, attacked with L2 {radius:g}")
        return publish(
            keeper, "study ilyas features",
            {"nets": asdict(s), "radius": radius, "steps": s.steps, "test": test.describe()},
            nets={name: one.to_dict() for name, one in found.items()}, figures={"usefulness": str(figure)},
        )  # fmt: skip


def table(result: Mapping[str, Any]) -> list[list[str]]:
    cells = [["net", "features", *(kind.title for kind in reversed(Kind)), "median rho", "median gamma"]]
    for name, net in result["measured"]["nets"].items():
        shares = [percent(net["shares"][kind.title], 0) for kind in reversed(Kind)]
        kept = [one for one in net["features"] if one["gamma"] is not None]
        # of each feature those for the class of its largest rho
        best = [max(zip(one["rho"], one["gamma"], strict=True), key=itemgetter(0)) for one in kept]
        medians = [number(sorted(column)[len(column) // 2]) for column in zip(*best, strict=True)]
        cells.append([name, str(len(net["features"])), *shares, *medians])
    return cells


def notes(result: Mapping[str, Any]) -> list[str]:
    limits = f"rho >= {RHO:g} and gamma >= {GAMMA:g} under L2 {result['config']['radius']:g}"
    return [
        f"robust: {limits}, for the class that it serves best; medians: for the class of the largest rho",
        "features have mean 0 and variance 1 over the test digits; ten equal classes allow a rho of 0.6",
    ]


COLORS = {Kind.ROBUST: BLUE, Kind.NON_ROBUST: VERMILION, Kind.USELESS: FAINT}
LINEAR = 2.0  # where gamma lies further below zero, it is drawn logarithmically there


def scatter(nets: Mapping[str, Usefulness], path: str | PathLike[str], title: str | None = None) -> None:
    """Draw a panel for each network, with a point for each of its features and classes at (rho, gamma).

    The key counts features by kind, for the class that each serves best, which has a full point; a ring is
    the same feature for another class. Without an adversary all points would lie on the dotted line.
    """
    width, top = 3.1, 0.85 if title else 0.55
    figure = style.new_figure(0.75 + len(nets) * width, 3.0 + top, title)
    points = {name: _points(net) for name, net in nets.items()}
    right = 1.08 * max(RHO, *(across.max(initial=0) for across, *_ in points.values()))
    lowest = min(-0.3, *(up.min(initial=0) for _, up, *_ in points.values()))
    for place, (name, (across, up, kinds, best)) in enumerate(points.items()):
        beside = "" if place else "robust usefulness γ = E[inf y f(x + δ)]"
        at = 0.65 + place * width, 0.5, width - 0.3, 2.4
        axes = style.panel(figure, at, "usefulness ρ = E[y f(x)]", beside)
        if lowest < -LINEAR:
            axes.set_yscale("symlog", linthresh=LINEAR, linscale=2)
        axes.set(xlim=(0, right), ylim=(1.08 * lowest, 1.08 * max(right, 0.3)))
        axes.plot([0, right], [0, right], color=FAINT, linewidth=0.9, linestyle=(0, (1, 2)), zorder=2)
        axes.plot([RHO, right], [GAMMA, GAMMA], color=INK, linewidth=0.9, zorder=2)
        axes.axvline(RHO, color=INK, linewidth=0.9, zorder=2)
        for kind, color in COLORS.items():
            of = kinds == kind
            first, other = of & best, of & ~best
            axes.scatter(
                across[other], up[other], s=7, facecolor="none", edgecolor=color, alpha=0.4, linewidths=0.5,
                zorder=3,
            )  # fmt: skip
            axes.scatter(across[first], up[first], s=16, color=color, linewidths=0, zorder=4)
        count = len(nets[name].rho)
        for line, (kind, share) in enumerate(nets[name].shares().items()):
            axes.text(
                (0.0, 0.31, 0.73)[line], 1.02, f"{share * count:.0f} {kind.title}", fontsize=8,
                fontweight="bold", color=COLORS[kind], transform=axes.transAxes, va="bottom",
            )  # fmt: skip
        axes.set_title(f"{name}: of {count} features", fontsize=9.5, color=INK, loc="left", pad=20)
        axes.tick_params(labelleft=not place)
    said = "●  a feature, for the class that it serves best (counted above)     ○  the same for another class"
    figure.text(0.65 / figure.get_size_inches()[0], -0.02, said, fontsize=8, color=FAINT, va="top")
    style.save(figure, path)


def _points(net: Usefulness) -> list[NDArray[Any]]:
    """Return rho, gamma and kind of each varying feature and class, and which class counts; each [N]."""
    drawn, kinds = ~net.constant, net.kinds()
    counted = torch.where(kinds == kinds.amax(1, keepdim=True), net.rho, -1.0)
    best = torch.zeros_like(kinds, dtype=torch.bool).scatter(1, counted.argmax(1, keepdim=True), True)
    return [each[drawn].flatten().cpu().numpy() for each in (net.rho, net.gamma, kinds, best)]
