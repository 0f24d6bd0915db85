"""`fastadv verify` and `merge`: constructed sets as products, and the work of many jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv import data as library
from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import print_table, progress, say
from fastadv.cli._shared import load_data, load_model, make_device
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation import merge as merge_evaluation
from fastadv.evaluation._parts import IDENTITY
from fastadv.text import number, percent

NAMES = ", ".join(library.names())
Folder = Annotated[
    Path, typer.Argument(help="The folder of a finished constructed set.", exists=True, file_okay=False)
]


def verify(
    folder: Folder,
    data: str | None = o.option(None, f"The base: {NAMES}, or the folder of a set.", "--data"),
    model: str | None = o.option(None, "The source model, by its name as in construct.", "--model", "-m"),
    option: o.Arguments = None,
    weights: o.Weights = None,
    split: o.Split | None = o.option(None, "Part of the base; by default train."),
    data_dir: o.DataDir = None,
    samples: o.Samples = None,
    batch_size: o.BatchSize = 256,
    device: o.Device = None,
) -> Iterator[Any]:
    """Verify a constructed set: check every shard, and recompute the figures of the card.

    With --data, the base of the set, labels and distances are checked as well. With --model, the source
    model, the classes of the images and the fooling rate are checked. Any difference is an error with exit
    code 1.
    """
    why = "has no effect without --{}: add that, or leave it out."
    if data is None:
        o.refuse_given(why.format("data"), split=split, data_dir=data_dir, samples=samples)
    if model is None:
        o.refuse_given(why.format("model"), option=option, weights=weights, device=device)
    with interruptible("nothing was changed"):
        base = net = None
        if data is not None:
            base = load_data(data, split, data_dir, samples, default="train")
        if model is not None:
            made = library.load_constructed(folder)
            seed = made.card["config"]["seed"]
            net = load_model(model, option, weights, made, make_device(device), seed)
        with progress("verify") as tick:
            try:
                found = library.verify_constructed(folder, base, net, batch_size=batch_size, progress=tick)
            except InputError as error:  # another base or model than on the card, however it was named
                raise CorruptFileError(str(error)) from error
    yield {"folder": str(folder), "base": data, "model": model, "measured": found}
    counts = found["label_counts"]
    cells = [
        ["verified", "found"],
        ["images, in whole shards", f"{found['samples']:,}"],
        ["images of a label", f"{min(counts):,} to {max(counts):,}"],
        ["hash of images and labels", found["data_hash"]],
        ["fooling rate", percent(found["fooling_rate"])],
        ["largest distance from the start", number(found["distance_max"])],
        ["labels and distances from the base", "those that are stored" if data else "not asked: add --data"],
        ["classes by the source model", "those that are stored" if model else "not asked: add --model"],
    ]
    print_table(f"{folder} is what its card says", cells)


def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders in which jobs with --shard worked: one, or several.")
    ],
    out: Path = o.folder(..., "The folder of the whole; it may be one of them."),
) -> Iterator[Any]:
    """Merge the results of jobs with --shard: of an evaluation or a construction.

    Every file is verified. If a shard is missing, duplicated, or from other work, the exit code is 2; if a
    file is damaged, it is 1.

    A merged set gets its index. For the table of a merged evaluation run the command of the jobs again with
    --resume and without --shard.
    """
    with interruptible("the same command resumes"):
        if any((folder / IDENTITY).is_file() for folder in folders):
            found = merge_evaluation(folders, out)
            yield {"out": str(out), **found}
            say(f"{found['shares']} shares in {out}; run their command with --resume for the whole")
            return
        made = library.construct.merge_constructed(folders, out)
    yield {"out": str(out), **made.card}
    say(f"{made.name}: {len(made):,} images in {out}")
