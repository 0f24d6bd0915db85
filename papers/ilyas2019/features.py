"""Section 2: how useful the features of a standard and of an adversarially trained net are, on the digits."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import fastadv as fa
from fastadv._extras import need
from fastadv.errors import InputError
from fastadv.runs.folder import Keeper
from fastadv.text import number, percent
from papers.ilyas2019 import digits
from papers.ilyas2019.usefulness import scatter, usefulness
from papers.ilyas2019.usefulness.result import GAMMA, RHO, Kind
from papers.study import Settings, Study, Watch, publish, unwatched


def run(
    settings: Settings, folder: Path, watch: Watch = unwatched, radius: float | None = None, steps: int = 20
) -> dict[str, Any]:
    """Train both nets in `folder`, measure and draw; `radius` None is half that of the evaluation."""
    radius = settings.l2_radius / 2 if radius is None else radius
    if not 0 < radius < math.inf:
        raise InputError(f"radius: expected a finite number > 0, got {radius}")
    # from x itself: a feature has a gradient there, and steps of a quarter of the radius reach the far side
    attack = partial(fa.attacks.pgd, steps=steps, step_size=radius / 4, random_start=False)
    study, figure, found = Study(settings, folder), folder / "features.png", {}
    need("matplotlib")
    with Keeper(folder) as keeper:
        for net in islice(digits.nets(study, watch), 2):
            found[net.name] = usefulness(
                net.model, study.test, fa.L2(radius), attack, batch_size=1024,
                progress=partial(watch, f"measuring {net.name}"),
            )  # fmt: skip
        scatter(
            found, figure, rho=RHO, gamma=GAMMA,
            title=f"Features of two nets on the digits, attacked with L2 {radius:g}",
        )  # fmt: skip
        nets, test = settings.as_json(), study.test.describe()
        measured = {name: one.to_dict(RHO, GAMMA) for name, one in found.items()}
        return publish(
            keeper, "study ilyas features", {"nets": nets, "radius": radius, "steps": steps, "test": test},
            nets=measured, figures={"usefulness": str(figure)},
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
