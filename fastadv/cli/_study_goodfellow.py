"""`fastadv study goodfellow`: FGSM, and what it does to networks and their training."""

from dataclasses import replace
from pathlib import Path

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._load import load_data, make_device
from fastadv.cli._output import print_table, progress, say, write_json
from fastadv.cli._panda import Takes, draw_panda, parse_shape
from fastadv.studies.goodfellow2014 import SCALES, paper, report
from fastadv.studies.results import REPORT

PANDA = 0.007  # the paper's radius for ImageNet: half a step of 8 bits


def goodfellow(
    scale: str | None = o.option(
        None, f"{', '.join(SCALES)}; by default cpu. tiny takes the embedded digits.", metavar="NAME"
    ),
    parts: str | None = o.option(None, f"Some of {', '.join(paper.PARTS)}; by default all.", metavar="NAMES"),
    seeds: int | None = o.count(None, "Large networks that are trained adversarially."),
    image: Path | None = o.option(
        None, "Instead of the study: the paper's first figure for this picture, with --model."
    ),
    model: str | None = o.option(None, "For --image: the model, as in 'fastadv attack'.", "--model", "-m"),
    option: o.Arguments = None,
    weights: o.Weights = None,
    shape: str | None = o.option(
        None, "For --image: what the model takes; by default 1,28,28.", metavar="C,H,W"
    ),
    classes: int | None = o.option(None, "For --image: the model's classes; by default 10.", min=2),
    names: Path | None = o.option(None, "For --image: a file with the name of a class in each line."),
    radius: float | None = o.number(
        None, "For --image: the L-infinity radius; by default 0.25, 0.007 for color."
    ),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("goodfellow2014"), "Folder for all results; what was begun there goes on."),
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Goodfellow et al. 2014 on MNIST: FGSM, adversarial training, controls, agreement, rubbish.

    Every table beside the paper's; results.json, report.md and figures in --run-dir. A command that was
    stopped goes on where it was. With --image: clean picture, sign of the gradient, and their sum, for any
    picture and model.
    """
    if image is not None:
        _refuse("has no effect with --image", scale=scale, parts=parts, seeds=seeds, data_dir=data_dir)
        if model is None:
            raise typer.BadParameter("--image needs the --model that looks at it.")
        takes = Takes(parse_shape(shape or "1,28,28"), classes or 10)
        step = (SCALES["cpu"].radius if takes.shape[0] == 1 else PANDA) if radius is None else radius
        path = run_dir / f"{image.stem}_fgsm.png"
        draw_panda(image, model, option, weights, takes, names, step, path, make_device(device), json, seed)
        return
    _refuse(
        "goes with --image", model=model, option=option, weights=weights, shape=shape, classes=classes,
        names=names, radius=radius,
    )  # fmt: skip
    scale = scale or "cpu"
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
    for part in result["config"]["parts"]:
        print_table(part.capitalize(), report.table(result, part))
    print_table("Networks", report.nets(result), report.notes(result))
    say("")
    for what, path in {**result["measured"]["figures"], "the report": run_dir / REPORT}.items():
        say(f"{what:<36} {path}")


def _refuse(why: str, **options: object) -> None:
    """Wrong usage where one of the options is given."""
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"--{name.replace('_', '-')} {why}; leave it out.")
