"""The paper's evaluation: every attack on every model in every norm, and the smallest perturbations."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.runs.work import Keeper
from papers.schott2018 import figures, report
from papers.schott2018.plan import SYNTHESES, Cell, Settings
from papers.schott2018.subjects import SUBSTITUTE, Subjects
from papers.schott2018.work import Done, Images, Work, attack, bound
from papers.study import Watch, publish, unwatched

CELLS = "cells"  # the folder of the finished batches
BATCH_SIZE, DEAR_BATCH_SIZE = 100, 25
BOUNDED = {"binary_abs": ("l2", "linf", "l0"), "abs": ("l2", "linf")}


def run(
    settings: Settings,
    subjects: Subjects,
    test: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Do the study in `folder`: write results.json, report.md and figures; `resume` goes on or adds to it."""
    if settings.samples > len(test):
        raise InputError(f"samples: expected at most the {len(test)} of {test.name}, got {settings.samples}")
    planned = settings.cells()
    transfers = any(cell.transfers for cell in planned)
    subjects.check([*settings.models, *([SUBSTITUTE] if transfers else [])])
    with Keeper(folder) as keeper:
        keeper.begun(CELLS, resume, "a run", Path)
        images = Images.drawn(test, settings.samples, settings.seed, subjects.device)
        work = Work(folder / CELLS, images, settings.seed)
        outcomes = _attacks(planned, subjects, work, watch)
        bounds: dict[report.Key, Done] = {}
        wanted = [(n, m) for m in settings.models for n in BOUNDED.get(m, ()) if n in settings.norms]
        for norm, model in wanted:
            watch(f"bounding {model} {norm}", len(bounds), len(wanted))
            bounds[norm, model] = bound(work, subjects[model], norm, DEAR_BATCH_SIZE)
        found = report.smallest(outcomes, settings)
        watch("drawing", 0, 1)
        return publish(
            keeper,
            "study schott",
            {**asdict(settings), "images": test.describe(), "weights": str(subjects.official)},
            report.markdown,
            cells=[report.of_cell(cell, done) for cell, done in outcomes.items()],
            least=[report.of_model(*key, each) for key, each in found.items()],
            bounds=[report.of_bound(*key, done, found.get(key)) for key, done in bounds.items()],
            seconds=sum(done.seconds for done in (*outcomes.values(), *bounds.values())),
            figures=figures.draw(settings, subjects, images, found, bounds, folder),
        )


def _attacks(planned: Sequence[Cell], subjects: Subjects, work: Work, watch: Watch) -> dict[Cell, Done]:
    count = len(work.images)
    outcomes: dict[Cell, Done] = {}
    for place, cell in enumerate(planned):

        def tick(done: int, cell: Cell = cell, before: int = place * count) -> None:
            watch(cell.name, before + done, len(planned) * count)

        tick(0)
        dear = cell.model in SYNTHESES and work.images.x.device.type == "cpu"
        outcomes[cell] = attack(work, subjects, cell, DEAR_BATCH_SIZE if dear else BATCH_SIZE, tick)
    return outcomes
