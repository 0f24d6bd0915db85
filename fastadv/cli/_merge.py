"""`fastadv merge`: the work of many jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import say
from fastadv.data.construct import merge_constructed
from fastadv.evaluation import merge as merge_evaluation
from fastadv.evaluation._parts import IDENTITY


def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of parts: one, or several.")],
    out: Annotated[o.Folder, "The folder of the whole; it may be one of them."],
) -> Iterator[Any]:
    """Merge the results of jobs with --shard, of an evaluation or a construction.

    Every file is verified. If a shard is missing, duplicated, or from other work, the exit code is 2; if a
    file is damaged, it is 1.

    A merged set gets its index. For the table of a merged evaluation run the command of the jobs again with
    --resume and without --shard.
    """
    with interruptible("the same command resumes"):
        if any((folder / IDENTITY).is_file() for folder in folders):
            counts = merge_evaluation(folders, out)
            yield {"out": str(out), **counts}
            say(f"{counts['shares']} shares in {out}; run their command with --resume for the whole")
            return
        whole = merge_constructed(folders, out)
    yield {"out": str(out), **whole.card}
    say(f"{whole.name}: {len(whole):,} images in {out}")
