"""The paper's evaluation: every attack on every model in every norm, and the smallest perturbations."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.runs.card import card
from fastadv.runs.keeper import Keeper
from fastadv.studies.results import publish
from fastadv.studies.schott2018 import figures, report, rows, summary
from fastadv.studies.schott2018.madry import SECONDS as MADRY_SECONDS
from fastadv.studies.schott2018.methods import METHODS
from fastadv.studies.schott2018.plan import SYNTHESES, Cell, Method, Settings
from fastadv.studies.schott2018.subjects import SUBSTITUTE, Subjects
from fastadv.studies.schott2018.work import Done, Images, Work, attack, bound
from fastadv.studies.study import Watch, unwatched
from fastadv.threat import THREATS

CELLS = "cells"  # the folder of the finished batches
log = logging.getLogger("fastadv")

BATCH_SIZE, DEAR_BATCH_SIZE = 100, 25
BOUND_SECONDS = {"l2": 0.1, "linf": 0.75, "l0": 0.1}
"""What the bound of an image takes on two cores."""
DISTAL_SECONDS = 60
"""What the distal images take, most of it on ABS."""
BOUNDED = {"binary_abs": ("l2", "linf", "l0"), "abs": ("l2", "linf")}


def estimate(settings: Settings, *, madry_trained: bool = False) -> float:
    """Estimate how many seconds it takes on two cores that do nothing else."""
    seconds = settings.samples * sum(cell.seconds for cell in settings.cells(METHODS))
    for model in settings.models:
        norms = [norm for norm in BOUNDED.get(model, ()) if norm in settings.norms]
        seconds += settings.samples * sum(BOUND_SECONDS[norm] for norm in norms)
    seconds += DISTAL_SECONDS if "abs" in settings.models else 0
    return seconds + (MADRY_SECONDS if "madry" in settings.models and not madry_trained else 0)


def run(
    settings: Settings,
    subjects: Subjects,
    test: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    resume: bool = False,
    methods: Sequence[Method] = METHODS,
) -> dict[str, Any]:
    """Do the study in `folder`: write results.json, report.md and the figures there, and return the results.

    Every finished batch is kept: with `resume`, a run that was stopped goes on, and other models, norms,
    attacks or more images can be added. An attack that fails is reported, and the others go on.

    Raises InputError for a folder with work in it unless `resume` is set, and where weights are missing.
    """
    if settings.samples > len(test):
        raise InputError(f"samples: expected at most the {len(test)} of {test.name}, got {settings.samples}")
    planned = settings.cells(methods)
    transfers = any(cell.transfers for cell in planned)
    subjects.check([*settings.models, *([SUBSTITUTE] if transfers else [])])
    with Keeper(folder) as keeper:
        keeper.begun(CELLS, resume, "a run", Path)
        images = Images.drawn(test, settings.samples, settings.seed, subjects.device)
        work = Work(folder / CELLS, images, settings.seed)
        outcomes, failed = _attacks(planned, subjects, work, watch)
        bounds = _bounds(settings, subjects, work, watch)
        found = summary.smallest(outcomes, settings)
        measured = {
            "cells": [summary.of_cell(cell, done) for cell, done in outcomes.items()],
            "least": [summary.of_model(*key, each) for key, each in found.items()],
            "bounds": [summary.of_bound(*key, done, found.get(key)) for key, done in bounds.items()],
            "seconds": sum(done.seconds for done in (*outcomes.values(), *bounds.values())),
            "failed": failed,
            "figures": _drawn(settings, subjects, work, outcomes, found, bounds, watch),
        }
        config = {**asdict(settings), "images": test.describe(), "weights": str(subjects.official)}
        result = card("study schott", config, **measured)
        publish(keeper, result, report.markdown(result))
    return result


def _attacks(
    planned: Sequence[Cell], subjects: Subjects, work: Work, watch: Watch
) -> tuple[dict[Cell, Done], dict[str, str]]:
    """Run the cells. Returns what became of each, and the errors of those that failed, by name."""
    total = sum(cell.seconds for cell in planned) or 1.0
    outcomes: dict[Cell, Done] = {}
    failed: dict[str, str] = {}
    before = 0.0
    for cell in planned:

        def tick(done: int, cell: Cell = cell, before: float = before) -> None:
            share = (before + cell.seconds * done / len(work.images)) / total
            watch(cell.name, round(1000 * share), 1000)

        tick(0)
        subject = subjects[cell.model]  # a Madry net is trained here
        dear = cell.model in SYNTHESES and work.images.x.device.type == "cpu"
        try:
            outcomes[cell] = attack(work, subjects, cell, DEAR_BATCH_SIZE if dear else BATCH_SIZE, tick=tick)
        except Exception as error:
            log.warning("study: %s on %s failed: %s", cell.method.name, subject.name, error, exc_info=True)
            failed[cell.name] = f"{type(error).__name__}: {error}"
        before += cell.seconds
    return outcomes, failed


def _bounds(settings: Settings, subjects: Subjects, work: Work, watch: Watch) -> dict[tuple[str, str], Done]:
    """Compute the radii within which decisions hold, by (norm, model)."""
    wanted = [
        (norm, model)
        for model in settings.models
        for norm in BOUNDED.get(model, ())
        if norm in settings.norms
    ]
    done: dict[tuple[str, str], Done] = {}
    for norm, model in wanted:
        watch(f"bounding {model} {norm}", len(done), len(wanted))
        done[norm, model] = bound(work, subjects[model], norm, DEAR_BATCH_SIZE)
    return done


def _drawn(
    settings: Settings,
    subjects: Subjects,
    work: Work,
    outcomes: Mapping[Cell, Done],
    found: Mapping[tuple[str, str], summary.Smallest],
    bounds: Mapping[tuple[str, str], Done],
    watch: Watch,
) -> dict[str, str]:
    """Draw the figures in the folder of the run. Returns the path of each by what it shows."""
    watch("drawing", 0, 2)
    folder, drawn = work.folder.parent, dict[str, Path]()
    if figures.against_published(found, path := folder / "published.png"):
        drawn["accuracy under the paper's attacks"] = path
    radii = {key: done.tensors["radius"] for key, done in bounds.items()}
    if figures.against_bounds(found, radii, path := folder / "all.png"):
        drawn["accuracy under all attacks"] = path
    for norm in settings.norms:
        if shown := rows.smallest(subjects, work.images, found, norm):
            figures.gallery(shown, norm, path := folder / f"smallest_{norm}.png")
            drawn[f"the smallest adversarials, {THREATS[norm].symbol}"] = path
    watch("drawing", 1, 2)
    if shown := rows.imagined(settings, subjects, work, outcomes):
        figures.imagined(shown, path := folder / "imagined.png")
        drawn["latent descent and distal images"] = path
    return {what: str(path) for what, path in drawn.items()}
