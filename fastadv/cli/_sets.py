"""`fastadv verify` and `merge`: constructed sets as products, and the work of many jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv import data as library
from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import print_table, say
from fastadv.evaluation import merge as merge_evaluation
from fastadv.evaluation._parts import IDENTITY
from fastadv.text import number, percent

Folder = Annotated[
    Path, typer.Argument(help="The folder of a finished constructed set.", exists=True, file_okay=False)
]


def verify(folder: Folder) -> Iterator[Any]:
    """Verify a constructed set: check every shard, and recompute the figures of the card.

    Any difference is an error with exit code 1.
    """
    with interruptible("nothing was changed"):
        found = library.verify_constructed(folder)
    yield {"folder": str(folder), "measured": found}
    counts = found["label_counts"]
    cells = [
        ["verified", "found"],
        ["images, in whole shards", f"{found['samples']:,}"],
        ["images of a label", f"{min(counts):,} to {max(counts):,}"],
        ["hash of images and labels", found["data_hash"]],
        ["fooling rate", percent(found["fooling_rate"])],
        ["largest distance from the start", number(found["distance_max"])],
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
