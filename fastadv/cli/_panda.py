"""`fastadv study goodfellow --image`: the paper's first figure for any picture and model."""

from dataclasses import dataclass
from pathlib import Path

import torch
import typer

from fastadv.cli import _options as o
from fastadv.cli._load import load_model
from fastadv.cli._output import print_table, say, write_json
from fastadv.evaluation.text import percent
from fastadv.studies.goodfellow2014 import panda
from fastadv.studies.goodfellow2014.measure import LOSS
from fastadv.studies.goodfellow2014.picture import read_image


@dataclass(frozen=True)
class Takes:
    """What images a model takes, and how many classes it tells apart."""

    shape: tuple[int, ...]
    num_classes: int


def parse_shape(text: str) -> tuple[int, ...]:
    """C,H,W."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"--shape: expected channels, height and width, as 3,224,224, got {text!r}.")
    return tuple(int(part) for part in parts)


def read_names(path: Path | None, classes: int) -> list[str] | None:
    """The names of the classes, one a line."""
    if path is None:
        return None
    try:
        names = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"--names: expected a text file with a name a line, got {path} ({error})."
        ) from error
    if len(names) != classes:
        raise typer.BadParameter(f"--names: expected {classes} lines, one for each class, got {len(names)}.")
    return names


def draw_panda(
    image: Path,
    model: str,
    option: list[str] | None,
    weights: Path | None,
    takes: Takes,
    names: Path | None,
    radius: float,
    path: Path,
    device: torch.device,
    json: bool,
    seed: int = 0,
) -> None:
    """The picture, the sign of its gradient, and their sum: classes and confidences, and the figure."""
    called = read_names(names, takes.num_classes)
    with o.usage():
        x, changed = read_image(image, takes.shape)
    net = load_model(model, option, weights, takes, device, seed)
    with o.usage():
        found, images = panda.panda(
            net, x.to(device), radius=radius, names=called, loss=LOSS.get(model, "ce")
        )
    panda.draw(found, images, path)
    if json:
        write_json({**found, "image": str(image), "changed": changed, "figure": str(path)})
        return
    cells = [["", "class", "confidence"]]
    for part in panda.PARTS:
        cells.append([part, found[part]["name"], percent(found[part]["confidence"])])
    notes = [f"L-infinity radius {radius:.3g}", *([f"the picture was {changed}"] if changed else [])]
    if found["zero_gradient"]:
        notes.append("the gradient is 0 everywhere, so nothing moved")
    print_table(image.name, cells, notes)
    say(f"figure  {path}")
