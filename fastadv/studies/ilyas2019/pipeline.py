"""The paper's experiment from the first net to its controls, as one resumable run in a folder."""

import time
from collections.abc import Iterable
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.runs.card import card
from fastadv.runs.files import read_json
from fastadv.runs.identity import check_same
from fastadv.runs.keeper import Keeper
from fastadv.studies.clock import Clock
from fastadv.studies.ilyas2019 import report
from fastadv.studies.ilyas2019.maker import Maker
from fastadv.studies.ilyas2019.plan import STAGES, Settings, check_stages, costs
from fastadv.studies.ilyas2019.stages import RUN, check_inputs
from fastadv.studies.results import RESULTS, publish
from fastadv.studies.study import Watch, one_thread, unwatched


def load(settings: Settings, data_dir: str | PathLike[str] | None = None) -> tuple[ImageSet, ImageSet]:
    """Return (training images, test images) of the settings."""
    base, test = (
        fa.data.load(settings.data, split, data_dir=data_dir, size=settings.size, limit=limit)
        for split, limit in (("train", settings.images), ("test", None))
    )
    assert isinstance(base, ImageSet)
    assert isinstance(test, ImageSet)
    if settings.images is not None and len(base) < settings.images:
        raise InputError(f"images: expected at most the {len(base)} of {base.name}, got {settings.images}")
    return base, test


def run(
    settings: Settings,
    base: ImageSet,
    test: ImageSet,
    folder: str | PathLike[str],
    watch: Watch = unwatched,
    *,
    stages: Iterable[str] = STAGES,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Do the stages in `folder`, and return all that is known there; also as results.json and report.md.

    Every net, set and evaluation is kept as soon as it is finished, and a stage that was stopped goes on. A
    stage by itself takes what others left in the folder. Results are written after each stage.

    watch: told what is being done, and about how much longer all of it takes.

    Raises InputError for a folder of other settings, images or seeds, naming what differs, and for a stage
    whose nets or sets are missing; OSError when the disk is full, with what was finished kept.
    """
    chosen, path = check_stages(stages), Path(folder)
    config = {**settings.as_json(), "train": base.describe(), "test": test.describe()}
    with Keeper(path) as keeper:
        known: dict[str, Any] = {}
        there = keeper.found(RESULTS, read_json)
        if there is not None:
            # other architectures may be added: their nets have cards of their own
            check_same(path / RESULTS, *({**one, "others": None} for one in (there["config"], config)))
            known = there["measured"]
        pieces = costs(settings, len(base), len(test))
        clock = Clock(watch, {name: cost for stage in chosen for name, cost in pieces[stage].items()})
        maker = Maker(settings, base, test, path, clock, device)
        check_inputs(maker, chosen)

        def write() -> dict[str, Any]:
            measured = {stage: known[stage] for stage in STAGES if stage in known}
            result = card("study ilyas pipeline", config, **measured)
            publish(keeper, result, report.markdown(result))
            return result

        result = write()
        # nets this small gain nothing from a second thread
        with one_thread() if settings.scale == "tiny" else nullcontext():
            for stage in chosen:
                began = time.perf_counter()
                # a stage that is only read again has cost what it cost before
                before = known.get(stage, {}).get("seconds", 0.0)
                done = RUN[stage](maker)
                known[stage] = {**done, "seconds": before + time.perf_counter() - began}
                result = write()
    return result
