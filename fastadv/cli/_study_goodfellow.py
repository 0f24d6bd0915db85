"""`fastadv study goodfellow`: FGSM, and what it does to networks and their training."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._panels import Panel
from fastadv.cli._shared import load_data, load_model, make_device
from fastadv.studies.goodfellow2014 import figures, paper
from fastadv.studies.goodfellow2014.panda import panda, read_image
from fastadv.studies.goodfellow2014.plan import SCALES
from fastadv.studies.study import REPORT
from fastadv.text import percent

PANDA = 0.007  # the paper's radius for ImageNet: half a step of 8 bits


class Picture(Panel, title="One picture"):
    """Instead of the study: the paper's first figure for a picture and a model."""

    image: Path | None = o.option(
        None, "Instead of the study: the paper's first figure for this picture, with --model."
    )
    model: str | None = o.option(None, "For --image: the model, as in 'fastadv attack'.", "--model", "-m")
    option: o.Arguments = None
    weights: o.Weights = None
    shape: str | None = o.option(
        None, "For --image: what the model takes; by default 1,28,28.", metavar="C,H,W"
    )
    classes: int | None = o.option(None, "For --image: the model's classes; by default 10.", min=2)
    names: Path | None = o.option(None, "For --image: a file with the name of a class in each line.")
    radius: float | None = o.number(
        None, "For --image: the L-infinity radius; by default 0.25, 0.007 for color."
    )


def parse_shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        o.refuse(f"--shape: expected channels, height and width, as 3,224,224, got {text!r}.")
    return tuple(int(part) for part in parts)


def read_names(path: Path | None, classes: int) -> list[str] | None:
    if path is None:
        return None
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"--names: expected a text file with a name a line, got {path} ({error})."
        ) from error
    if len(names) != classes:
        o.refuse(f"--names: expected {classes} lines, one for each class, got {len(names)}.")
    return names


def draw_panda(picture: Picture, path: Path, device: torch.device, seed: int) -> Iterator[Any]:
    """Draw the picture, the sign of its gradient, and their sum; print classes and confidences."""
    image, model = picture.image, picture.model
    if image is None or model is None:
        o.refuse("--image needs the --model that looks at it.")
    shape = parse_shape(picture.shape or "1,28,28")
    takes = SimpleNamespace(shape=shape, num_classes=picture.classes or 10)
    usual = SCALES["cpu"].radius if shape[0] == 1 else PANDA
    radius = usual if picture.radius is None else picture.radius
    called = read_names(picture.names, takes.num_classes)
    x, changed = read_image(image, shape)
    net = load_model(model, picture.option, picture.weights, takes, device, seed)
    found, images = panda(net, x.to(device), radius=radius, names=called)
    figures.panda(found, images, path)
    yield {**found, "image": str(image), "changed": changed, "figure": str(path)}
    cells = [["", "class", "confidence"]]
    for part in figures.PARTS:
        cells.append([part, found[part]["name"], percent(found[part]["confidence"])])
    notes = [f"L-infinity radius {radius:.3g}", *([f"the picture was {changed}"] if changed else [])]
    if found["zero_gradient"]:
        notes.append("the gradient is 0 everywhere, so nothing moved")
    print_table(image.name, cells, notes)
    say(f"figure  {path}")


def goodfellow(
    picture: Picture,
    scale: str | None = o.option(
        None, f"{', '.join(SCALES)}; by default cpu. tiny takes the embedded digits.", metavar="NAME"
    ),
    parts: str | None = o.option(None, f"Some of {', '.join(paper.PARTS)}; by default all.", metavar="NAMES"),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("goodfellow2014"), "Folder for all results; an interrupted run resumes."),
    seed: o.Seed = 0,
    device: o.Device = None,
) -> Iterator[Any]:
    """Goodfellow et al. 2014 on MNIST: FGSM, adversarial training, controls, agreement, rubbish.

    Prints every table next to the paper's, and writes results.json, report.md and figures to --run-dir. An
    interrupted command resumes. With --image it draws the paper's first figure for any picture and model: the
    clean picture, the sign of the gradient, and their sum.
    """
    if picture.image is not None:
        why = "has no effect with --image; leave it out."
        o.refuse_given(why, scale=scale, parts=parts, data_dir=data_dir)
        path = run_dir / f"{picture.image.stem}_fgsm.png"
        yield from draw_panda(picture, path, make_device(device), seed)
        return
    o.refuse_given("goes with --image; leave it out.", **vars(picture))
    scale = scale or "cpu"
    o.check_choice("--scale", scale, SCALES)
    settings = replace(SCALES[scale], seed=seed)
    chosen = o.split_names(parts) or paper.PARTS
    place = make_device(device)
    with interruptible(epochs_kept(run_dir)), progress("study") as bar:
        name = "digits" if scale == "tiny" else "mnist"
        train_set = load_data(name, "train", data_dir)
        test_set = load_data(name, "test", data_dir)
        result = paper.run(settings, train_set, test_set, run_dir, bar.named, parts=chosen, device=place)
    yield result
    for part in result["config"]["parts"]:
        print_table(part.capitalize(), paper.table(result, part))
    print_table("Networks", paper.networks(result), paper.notes(result))
    say("")
    say_where({**result["measured"]["figures"], "the report": run_dir / REPORT}, width=36)
