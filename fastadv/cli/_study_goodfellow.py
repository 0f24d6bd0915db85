"""`fastadv study goodfellow`: FGSM, and what it does to networks and their training."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._load import load_data, make_device
from fastadv.cli._output import print_table, progress, say, write_json
from fastadv.studies.goodfellow2014 import SCALES, paper, report


def goodfellow(
    scale: Annotated[
        str, typer.Option(metavar="NAME", help=f"{', '.join(SCALES)}; tiny takes the embedded digits.")
    ] = "cpu",
    parts: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help=f"Some of {', '.join(paper.PARTS)}; by default all."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Large networks that are trained adversarially.")
    ] = None,
    data_dir: o.DataDir = None,
    run_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for all results; what was begun there goes on.")
    ] = Path("goodfellow2014"),
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Goodfellow et al. 2014 on MNIST: FGSM, adversarial training, controls, agreement, rubbish.

    Every table beside the paper's; results.json, report.md and figures in --run-dir. A command that was
    stopped goes on where it was.
    """
    if scale not in SCALES:
        raise typer.BadParameter(f"--scale is one of {', '.join(SCALES)}, got {scale}.")
    settings = replace(SCALES[scale], seed=seed)
    if seeds is not None:
        settings = replace(settings, seeds=seeds)
    chosen = tuple(part.strip() for part in parts.split(",")) if parts else paper.PARTS
    place = make_device(device)
    with interruptible(epochs_kept(run_dir)), progress("study") as bar, o.usage():
        name = "digits" if scale == "tiny" else "mnist"
        train_set = load_data(name, o.Split.TRAIN, data_dir, None, None)
        test_set = load_data(name, o.Split.TEST, data_dir, None, None)
        result = paper.run(settings, train_set, test_set, run_dir, bar.named, parts=chosen, device=place)
    if json:
        write_json(result)
        return
    for part in chosen:
        print_table(part.capitalize(), report.table(result, part))
    print_table("Networks", report.nets(result), report.notes(result))
    say("")
    for what, path in {**result["measured"]["figures"], "the report": run_dir / "report.md"}.items():
        say(f"{what:<36} {path}")
