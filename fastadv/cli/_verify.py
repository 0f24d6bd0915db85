"""`fastadv verify`: whether a constructed set is whole, and what its card says it is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_model, make_device
from fastadv.cli._output import print_table, progress, write_json
from fastadv.data import load_constructed, names, verify_constructed
from fastadv.evaluation.text import number, percent


def verify(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished constructed set.")],
    data: str | None = o.option(None, f"The base: {', '.join(names())}, or the folder of a set.", "--data"),
    model: str | None = o.option(None, "The source model, by its name as in construct.", "--model", "-m"),
    option: o.Arguments = None,
    weights: o.Weights = None,
    split: o.Split | None = o.option(None, "Part of the base; by default train."),
    data_dir: o.DataDir = None,
    size: o.Size = None,
    samples: o.Samples = None,
    batch_size: o.BatchSize = 256,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Verify a constructed set: every shard, and the card's figures, computed again.

    With --data, its base, the labels and distances are compared with that as well.
    With --model, its source model, the classes of the images and the fooling rate are.
    Any difference is an error, exit code 1.
    """
    _no_effect("--data", data, {"split": split, "data-dir": data_dir, "size": size, "samples": samples})
    _no_effect("--model", model, {"option": option, "weights": weights, "device": device})
    with interruptible("nothing was changed"):
        base = data and load_data(data, split, data_dir, size, samples, default=o.Split.TRAIN)
        net = None
        if model is not None:
            made = load_constructed(folder)
            seed = made.card["config"]["seed"]
            net = load_model(model, option, weights, made, make_device(device), seed)
        with progress("verify") as tick:
            found = verify_constructed(folder, base or None, net, batch_size=batch_size, progress=tick)
    if json:
        write_json({"folder": str(folder), "base": data, "model": model, "measured": found})
        return
    cells = [["verified", "found"], *lines(found)]
    cells += [
        ["labels and distances from the base", "those that are stored" if data else "not asked: add --data"],
        ["classes by the source model", "those that are stored" if model else "not asked: add --model"],
    ]
    print_table(f"{folder} is what its card says", cells)


def lines(found: dict[str, Any]) -> list[list[str]]:
    """Return the figures of a set that was verified."""
    counts = found["label_counts"]
    return [
        ["images, in whole shards", f"{found['samples']:,}"],
        ["images of a label", f"{min(counts):,} to {max(counts):,}"],
        ["hash of images and labels", found["data_hash"]],
        ["fooling rate", percent(found["fooling_rate"])],
        ["largest distance from the start", number(found["distance_max"])],
    ]


def _no_effect(needed: str, given: str | None, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if given is None and value is not None:
            o.refuse(f"--{name} has no effect without {needed}: add that, or leave it out.")
