"""`fastadv study recipes`: adversarial training by every recipe, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._load import load_data, make_device
from fastadv.cli._output import print_table, progress, say, write_json
from fastadv.errors import InputError
from fastadv.studies import recipes as study
from fastadv.studies.results import REPORT

NAMES = ", ".join(study.RECIPES)


def recipes(
    names: Annotated[
        str | None,
        typer.Option("--recipes", metavar="NAMES", help=f"Some of {NAMES}; by default all."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each run.")] = study.Settings.epochs,
    ramp: Annotated[
        int, typer.Option(min=0, help="Epochs in which the radius grows; 0 for none.")
    ] = study.Settings.ramp,
    radius: Annotated[float, o.number("L-infinity radius.")] = study.Settings.radius,
    judged: Annotated[int, o.JUDGED] = study.Settings.judged,
    limit: o.Limit = None,
    data_dir: o.DataDir = None,
    run_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for all results; what was begun there goes on.")
    ] = Path("recipes"),
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Every recipe of adversarial training on MNIST: accuracy, seconds, and what went wrong.

    One table, results.json and report.md in --run-dir. A command that was stopped goes on where it was.
    """
    chosen = tuple(part.strip() for part in names.split(",")) if names else tuple(study.RECIPES)
    unknown = [name for name in chosen if name not in study.RECIPES]
    if unknown:
        raise InputError(f"--recipes: expected some of {NAMES}, got {unknown[0]!r}; check its spelling")
    settings = study.Settings(chosen, radius, epochs, ramp, judged=judged, seed=seed)
    place = make_device(device)
    with interruptible(epochs_kept(run_dir)), progress("study") as bar:
        train_set = load_data("mnist", o.Split.TRAIN, data_dir, None, limit)
        test_set = load_data("mnist", o.Split.TEST, data_dir, None, None)
        result = study.run(settings, train_set, test_set, run_dir, bar.named, device=place)
    if json:
        write_json(result)
        return
    print_table("Recipes of adversarial training", study.table(result), study.notes(result))
    say("")
    say(f"the report {run_dir / REPORT}")
