"""The panda of figure 1 for any model and image: x, the sign of the gradient, and their sum."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, cat, nn
from torch.nn.functional import interpolate

import fastadv as fa
from fastadv.data import folder
from fastadv.errors import InputError
from fastadv.evaluation.figures.images import draw_image
from fastadv.evaluation.figures.style import FAINT, INK, VERMILION, new_figure, save

PARTS = ("clean", "sign", "adversarial")


def panda(
    model: nn.Module, x: Tensor, *, radius: float, names: Sequence[str] | None = None, loss: str = "ce"
) -> tuple[dict[str, Any], Tensor]:
    """Return what `model` says of an image x [C, H, W] in [0, 1], the gradient's sign, and x after FGSM.

    Returns these figures, and the three images [3, C, H, W].

    clean, sign, adversarial   for each the class, its name and its confidence. The sign is judged as the
                    image that it is drawn as, 0 for -1 and 1 for +1. x + radius · sign is clamped to [0, 1].
    label           whose loss the gradient is of: the class that the model predicts
    fooled          whether the predicted class has changed
    zero_gradient   whether the gradient is 0 everywhere, so that nothing moves

    names: of the classes, their numbers unless given. loss: "ce" or "bce".
    """
    frozen = fa.freeze(model)
    x = x[None]
    y = frozen.verdict(x).argmax(1)
    gradient = frozen.input_gradient(x, y, loss, direction=True)[2]
    images = cat([x, gradient.sign() / 2 + 0.5, fa.Linf(radius).step(x, gradient, x, radius)])
    classes = frozen.verdict(images).argmax(1)
    chances = frozen.confidence(images).gather(1, classes[:, None])[:, 0]

    figures = {
        **{
            part: {"class": k, "name": str(k) if names is None else names[k], "confidence": chance}
            for part, k, chance in zip(PARTS, classes.tolist(), chances.tolist(), strict=True)
        },
        "radius": radius,
        "label": int(y),
        "loss": loss,
        "fooled": bool(classes[2] != classes[0]),
        "zero_gradient": bool((images[1] == 0.5).all()),
    }
    return figures, images


def draw(figures: dict[str, Any], images: Tensor, path: str | PathLike[str]) -> None:
    """Draw what `panda` returned: three panels with + and = between them."""
    side, between, below, top = 1.9, 0.75, 0.75, 0.1
    tall, wide = (side * size / max(images.shape[2:]) for size in images.shape[2:])
    width, height = 3 * wide + 2 * between + 0.2, tall + below + top
    figure = new_figure(width, height)
    signs = (f"+ {figures['radius']:.3g} ×", "=")
    titles = ("x", "sign(∇ₓ J(θ, x, y))", "x + ε sign(∇ₓ J(θ, x, y))")
    for place, (image, part, title) in enumerate(zip(images.cpu(), PARTS, titles, strict=True)):
        left = 0.1 + place * (wide + between)
        axes = figure.add_axes((left / width, below / height, wide / width, tall / height))
        draw_image(axes, image)
        said = figures[part]
        wrong = part == "adversarial" and figures["fooled"]
        lines = (
            (title, FAINT, "normal"),
            (said["name"], VERMILION if wrong else INK, "bold"),
            (f"{said['confidence']:.1%} confidence", INK, "normal"),
        )
        for line, (text, color, weight) in enumerate(lines):
            figure.text(
                (left + wide / 2) / width, (below - 0.08 - 0.2 * line) / height, text, fontsize=9,
                color=color, fontweight=weight, ha="center", va="top",
            )  # fmt: skip
        if place < 2:
            across, up = (left + wide + between / 2) / width, (below + tall / 2) / height
            figure.text(across, up, signs[place], fontsize=12, color=INK, ha="center", va="center")
    save(figure, path)


def read_image(path: Path, shape: Sequence[int]) -> tuple[Tensor, str]:
    """Return (a picture as float32 [C, H, W] in [0, 1] of that shape, what was done to it in words, or "").

    A picture of another size is cut to the shape's proportions, around its center, and resized. A gray one
    also serves a model of three channels.

    CorruptFileError where the file is not a whole image; InputError where there is none, for a picture in
    color where the model takes gray ones, and for a model that takes neither.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise InputError(f"model: expected one of gray or color pictures, got one of {channels} channels")
    if not path.is_file():
        raise InputError(f"{path}: expected an image file, got none at that place; check the path")
    image = folder.read_image(path).float() / 255
    if channels == 1:
        if not bool((image == image[:1]).all()):
            raise InputError(
                f"{path}: expected a gray picture, which the model takes, got one in color; convert it"
            )
        image = image[:1]
    found = tuple(image.shape[1:])
    if found == (height, width):
        return image, ""
    scale = min(found[0] / height, found[1] / width)
    tall, wide = max(round(height * scale), 1), max(round(width * scale), 1)
    top, left = (found[0] - tall) // 2, (found[1] - wide) // 2
    cut = image[None, :, top : top + tall, left : left + wide]
    made = interpolate(cut, (height, width), mode="bilinear", antialias=tall > height).clamp(0, 1)[0]
    center = "" if (tall, wide) == found else f", its center of {tall}x{wide}"
    return made, f"resized from {found[0]}x{found[1]} to {height}x{width}{center}"
