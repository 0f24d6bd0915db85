"""Section 2: how useful the features of a standard and of an adversarially trained net are, on the digits."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import fastadv as fa
from fastadv.errors import InputError
from fastadv.runs.folder import Keeper
from papers.ilyas2019.scatter import scatter
from papers.ilyas2019.usefulness import GAMMA, RHO, Kind, usefulness
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
    pgd = {"steps": s.train_steps, "step_size": s.train_radius / 5, "random_start": False}
    recipes: dict[str, fa.train.Recipe] = {
        "standard": fa.train.Standard(),
        "adversarial": fa.train.PGDTraining(fa.L2(s.train_radius), **pgd),  # type: ignore[arg-type]
    }
    base, test = (load_images("digits", part, size=s.size, limit=s.samples) for part in ("train", "test"))
    figure, found = folder / "features.png", {}
    with Keeper(folder) as keeper:
        for name, recipe in recipes.items():
            net = trained(
                "small_cnn", base, recipe, folder / "nets" / name, seed=s.seed, options={"width": s.width},
                epochs=s.epochs, batch_size=s.batch_size, progress=partial(watch, f"training {name}"),
                optimization=fa.train.Optimization(schedule="cosine"),
            )  # fmt: skip
            found[name] = usefulness(
                net,
                test,
                fa.L2(radius),
                attack,
                batch_size=1024,
                progress=partial(watch, f"measuring {name}"),
            )  # fmt: skip
        scatter(
            found, figure, rho=RHO, gamma=GAMMA,
            title=f"Features of two nets on the digits, attacked with L2 {radius:g}",
        )  # fmt: skip
        measured = {name: one.to_dict(RHO, GAMMA) for name, one in found.items()}
        return publish(
            keeper, "study ilyas features",
            {"nets": asdict(s), "radius": radius, "steps": s.steps, "test": test.describe()}, nets=measured,
            figures={"usefulness": str(figure)},
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
