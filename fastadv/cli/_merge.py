"""`fastadv merge`: what jobs with --shard did, put together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import say
from fastadv.data import construct
from fastadv.evaluation import merge as merge_evaluation
from fastadv.evaluation._parts import IDENTITY


def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders in which jobs with --shard worked: one, or several.")
    ],
    out: Path = o.folder(..., "The folder of the whole; it may be one of them."),
) -> Iterator[Any]:
    """Put together what jobs with --shard of one evaluation, construction, or bound of ABS have done.

    Every file is verified. Shards that are missing, there twice, or of other work are refused with exit code
    2; a damaged file ends the command with 1.

    A merged set has its index. For the table of a merged evaluation, or the bounds, run its command with
    --resume, without --shard.
    """
    with interruptible("the same command resumes"):
        if any((folder / IDENTITY).is_file() for folder in folders):
            found = merge_evaluation(folders, out)
            yield {"out": str(out), **found}
            say(f"{found['shares']} shares in {out}; run their command with --resume for the whole")
            return
        made = construct.merge_constructed(folders, out)
    yield {"out": str(out), **made.card}
    say(f"{made.name}: {len(made):,} images in {out}")
