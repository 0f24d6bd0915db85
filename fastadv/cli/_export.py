"""`fastadv export`: a constructed set as PNG files or torch tensors, for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import progress, say, write_json
from fastadv.data import export as write
from fastadv.data import load_folder


class Kind(StrEnum):
    """The layouts."""

    PNG = "png"
    TORCH = "torch"


def export(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished constructed set.")],
    out: Path = o.folder(..., "A new folder for the set."),
    kind: Kind = o.option(
        Kind.PNG,
        "png: CLASS/NUMBER.png, lossless. torch: CIFAR_ims and CIFAR_lab, lists of tensors in torch "
        "files, as Ilyas et al. 2019 published theirs.",
    ),
    json: o.Json = False,
) -> None:
    """Write a constructed set in a layout that other programs read.

    card.json beside it says how the set was made; with it, --data of every command takes the folder as the
    same set.
    """
    with interruptible("nothing was written"), progress("export") as tick:
        dataset = load_folder(folder)
        with o.usage():
            write(dataset, out, kind.value, progress=tick)
    if json:
        write_json({"out": str(out), "kind": kind.value, "set": dataset.describe()})
        return
    what = "PNG files, a folder for each class" if kind is Kind.PNG else "CIFAR_ims and CIFAR_lab"
    say(f"{dataset.name}: {len(dataset):,} images in {out} ({what})")
