"""The study from first to last: every table, with the networks that it needs trained on the way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.runs.card import card
from fastadv.runs.keeper import Keeper
from fastadv.studies.goodfellow2014 import logistic, moves, report, rubbish, tables, weights
from fastadv.studies.goodfellow2014.measure import Bench, Line
from fastadv.studies.goodfellow2014.nets import Nets
from fastadv.studies.goodfellow2014.settings import Settings
from fastadv.studies.study import Watch, publish, unwatched

TABLES: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "fgsm": tables.fgsm,
    "logistic": logistic.two_digits,
    "adversarial": tables.adversarial,
    "controls": tables.controls,
    "weights": weights.first_layers,
    "agreement": tables.agreement,
    "rounding": tables.rounding,
    "directions": moves.directions,
    "ensemble": tables.ensemble,
    "rubbish": rubbish.noises,
}
PARTS = tuple(TABLES)


def run(
    settings: Settings,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    parts: Sequence[str] = PARTS,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Do these parts in `folder`: write results.json, report.md and figures there, and return the results.

    Finished epochs are kept, so a study that was stopped goes on, and parts can be added. Raises InputError
    for an unknown part, and where a network in the folder is of other settings or data.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(
            f"parts: expected some of {', '.join(PARTS)}, got {unknown[0] if unknown else 'none'!r}"
        )
    parts = tuple(dict.fromkeys(parts))
    with Keeper(folder) as keeper:
        nets = Nets(settings, train_set, folder / "nets", watch, device)
        bench, lines = Bench(nets, test_set, folder), []
        for place, part in enumerate(parts):
            watch(part, place, len(parts))
            lines += [{"part": part, **asdict(line)} for line in TABLES[part](bench)]
        sets = {"train": train_set.describe(), "test": test_set.describe()}
        result = card(
            "study goodfellow", {**asdict(settings), "parts": list(parts), **sets}, lines=lines,
            tested=len(bench.y), nets=nets.told(), details=bench.details, figures=bench.figures,
        )  # fmt: skip
        publish(keeper, result, report.markdown(result))
    return result
