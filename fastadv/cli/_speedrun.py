"""`fastadv speedrun`: robust accuracy on CIFAR-10 in the least time, as a record."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._output import progress, say
from fastadv.cli._recipes import RecipeOptions, parse_recipe
from fastadv.cli._shared import load_data, make_device
from fastadv.studies import speedrun as study


def speedrun(
    size: str | None = o.option(None, "full or small; by default full on a GPU, else small."),
    goal: float | None = o.number(None, "Accuracy under AutoAttack to reach."),
    epochs: int | None = o.count(None, "Epochs of training."),
    recipe: str | None = o.option(None, "Another recipe, as for fastadv train.", metavar="NAME:KEY=VALUE"),
    limit: o.Limit = None,
    judged: int | None = o.judged(None),
    fp32: bool = o.option(False, "Single precision; by default bf16.", "--fp32"),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("speedrun"), "Folder of the run; an interrupted run resumes."),
    seed: o.Seed = 0,
    device: o.Device = None,
) -> Iterator[Any]:
    """Train a ResNet-18 on CIFAR-10 at L-infinity 8/255 as fast as possible, and write a record.

    record.json in --run-dir has the machine, the seconds and the robust accuracy. The small size, for two
    cores, is a narrow network on 10,000 images.
    """
    place = make_device(device)
    if size is None:
        size = "full" if place.type == "cuda" else "small"
    if size not in study.SIZES:
        o.refuse(f"--size: expected one of {', '.join(study.SIZES)}, got {size!r}.")
    chosen = study.SIZES[size]
    given: dict[str, Any] = {"goal": goal, "epochs": epochs, "images": limit, "judged": judged, "seed": seed}
    if recipe is not None:
        given["recipe"] = parse_recipe(recipe, RecipeOptions(radius=float(study.THREAT.radius)))
    settings = replace(chosen, **{name: value for name, value in given.items() if value is not None})
    with interruptible(epochs_kept(run_dir)), progress("speedrun") as bar:
        train_set = load_data("cifar10", "train", data_dir, limit=settings.images)
        test_set = load_data("cifar10", "test", data_dir)
        precision = "fp32" if fp32 else "bf16"
        record = study.run(
            settings, train_set, test_set, run_dir, bar.named, precision=precision, device=place
        )
    yield record
    for line in study.in_words(record):
        say(line)
    say(f"the record {run_dir / 'record.json'}")
