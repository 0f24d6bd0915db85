"""`fastadv study recipes`: adversarial training by every recipe, side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._output import print_table, progress, say
from fastadv.cli._shared import load_data, make_device
from fastadv.errors import InputError
from fastadv.studies import recipes as study
from fastadv.studies.study import REPORT

NAMES = ", ".join(study.RECIPES)


def recipes(
    names: str | None = o.option(None, f"Some of {NAMES}; by default all.", "--recipes", metavar="NAMES"),
    epochs: int = o.count(study.Settings.epochs, "Epochs of each run."),
    ramp: int = o.option(study.Settings.ramp, "Epochs in which the radius grows; 0 for none.", min=0),
    radius: float = o.number(study.Settings.radius, "L-infinity radius."),
    judged: int = o.judged(study.Settings.judged),
    limit: o.Limit = None,
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("recipes"), "Folder for all results; what was begun there goes on."),
    seed: o.Seed = 0,
    device: o.Device = None,
) -> Iterator[Any]:
    """Train every recipe of adversarial training on MNIST: accuracy, seconds, and what went wrong.

    One table, results.json and report.md in --run-dir. A command that was stopped goes on where it was.
    """
    chosen = o.split_names(names) or tuple(study.RECIPES)
    unknown = [name for name in chosen if name not in study.RECIPES]
    if unknown:
        raise InputError(f"--recipes: expected some of {NAMES}, got {unknown[0]!r}; check its spelling")
    settings = study.Settings(chosen, radius, epochs, ramp, judged=judged, seed=seed)
    place = make_device(device)
    with interruptible(epochs_kept(run_dir)), progress("study") as bar:
        train_set = load_data("mnist", "train", data_dir, limit=limit)
        test_set = load_data("mnist", "test", data_dir)
        result = study.run(settings, train_set, test_set, run_dir, bar.named, device=place)
    yield result
    print_table("Recipes of adversarial training", study.table(result), study.notes(result))
    say("")
    say(f"the report {run_dir / REPORT}")
