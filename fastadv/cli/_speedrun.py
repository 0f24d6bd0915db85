"""`fastadv speedrun`: robust accuracy on CIFAR-10 in the least time, as a record."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._load import load_data, make_device
from fastadv.cli._output import progress, say, write_json
from fastadv.cli._recipes import RecipeOptions, parse_recipe
from fastadv.studies import speedrun as study


def speedrun(
    size: Annotated[
        str | None, typer.Option(help="full or small; by default full on a GPU, else small.")
    ] = None,
    goal: Annotated[float | None, o.number("Accuracy under AutoAttack to reach.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training.")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME:KEY=VALUE", help="Another recipe, as for fastadv train.")
    ] = None,
    limit: o.Limit = None,
    judged: Annotated[int | None, o.JUDGED] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Single precision; by default bf16.")] = False,
    data_dir: o.DataDir = None,
    run_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of the run; one that was stopped goes on.")
    ] = Path("speedrun"),
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Train a ResNet-18 on CIFAR-10 at L-infinity 8/255 as fast as can be, and write the record.

    record.json in --run-dir says on which machine, in how many seconds, and how robust. The small size, for
    two cores, is a narrow network on 10,000 images.
    """
    place = make_device(device)
    if size is None:
        size = "full" if torch.device(place or "cpu").type == "cuda" else "small"
    if size not in study.SIZES:
        raise typer.BadParameter(f"--size: expected one of {', '.join(study.SIZES)}, got {size!r}.")
    chosen = study.SIZES[size]
    given: dict[str, Any] = {"goal": goal, "epochs": epochs, "images": limit, "judged": judged, "seed": seed}
    if recipe is not None:
        given["recipe"] = parse_recipe(recipe, RecipeOptions(radius=float(study.THREAT.radius)))
    settings = replace(chosen, **{name: value for name, value in given.items() if value is not None})
    with interruptible(epochs_kept(run_dir)), progress("speedrun") as bar:
        train_set = load_data("cifar10", o.Split.TRAIN, data_dir, None, settings.images)
        test_set = load_data("cifar10", o.Split.TEST, data_dir, None, None)
        precision = "fp32" if fp32 else "bf16"
        sets = train_set, test_set
        record = study.run(settings, *sets, run_dir, bar.named, precision=precision, device=place)
    if json:
        write_json(record)
        return
    for line in study.in_words(record):
        say(line)
    say(f"the record {run_dir / 'record.json'}")
