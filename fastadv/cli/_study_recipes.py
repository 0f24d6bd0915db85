"""`fastadv study recipes`: adversarial training by every recipe, side by side."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._shared import load_data, make_device
from fastadv.studies.recipes.figures import CURVES
from fastadv.studies.recipes.plan import RECIPES, SETS, Settings
from fastadv.studies.recipes.report import notes, table
from fastadv.studies.recipes.work import run
from fastadv.studies.study import REPORT

NAMES = "; ".join(f"{', '.join(known)} on {data}" for data, known in RECIPES.items())


def _on(of: str) -> str:
    """Say what a setting is by default on each data set."""
    return ", ".join(f"{getattr(settings, of):.4g} on {data}" for data, settings in SETS.items())


def recipes(
    data: str = o.option("mnist", f"The data set: {', '.join(SETS)}.", "--data"),
    names: str | None = o.option(None, f"Some of {NAMES}; by default all.", "--recipes", metavar="NAMES"),
    epochs: int | None = o.count(None, f"Epochs of each run; by default {_on('epochs')}."),
    ramp: int | None = o.option(
        None, f"Epochs in which the radius grows, 0 for none; by default {_on('ramp')}.", min=0
    ),
    radius: float | None = o.number(None, f"L-infinity radius; by default {_on('radius')}."),
    judged: int = o.judged(Settings.judged),
    tested: int | None = o.count(None, f"Test images that measure an epoch; by default {_on('tested')}."),
    test_every: int | None = o.count(
        None, f"Epochs from one test to the next; by default {_on('test_every')}."
    ),
    limit: int | None = o.count(
        None,
        f"Train on this many images only, the first ones; by default {SETS['cifar10'].images} of CIFAR-10.",
    ),
    seeds: int = o.count(1, "Runs of each recipe, with the seeds from --seed on."),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("recipes"), "Folder for all results; an interrupted run resumes."),
    seed: o.Seed = 0,
    device: o.Device = None,
) -> Iterator[Any]:
    """Train recipes of adversarial training on MNIST or CIFAR-10: accuracy, seconds, and what went wrong.

    Prints one table, and writes results.json, report.md, and curves.png by epoch to --run-dir. An interrupted
    command resumes. A folder seed1 in --run-dir is a study of seed 1, which another command may make.
    """
    o.check_choice("--data", data, SETS)
    given: dict[str, Any] = {
        "recipes": o.split_names(names), "epochs": epochs, "ramp": ramp, "radius": radius, "images": limit,
        "tested": tested, "test_every": test_every,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    settings = replace(SETS[data], judged=judged, seed=seed, seeds=seeds, **given)
    place = make_device(device)
    with interruptible(epochs_kept(run_dir)), progress("study") as bar:
        train_set = load_data(data, "train", data_dir, limit=settings.images)
        test_set = load_data(data, "test", data_dir)
        command = shlex.join(["fastadv", *sys.argv[1:]])
        result = run(settings, train_set, test_set, run_dir, bar.named, command=command, device=place)
    yield result
    print_table("Recipes of adversarial training", table(result), notes(result))
    say("")
    say_where({"the curves": run_dir / CURVES, "the report": run_dir / REPORT})
