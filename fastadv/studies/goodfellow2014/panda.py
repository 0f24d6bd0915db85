"""The panda of figure 1 for any model and image: x, the sign of the gradient, and their sum."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from torch import Tensor, cat, nn

import fastadv as fa
from fastadv.evaluation.figures.images import draw_image
from fastadv.evaluation.figures.style import FAINT, INK, VERMILION, new_figure, save

PARTS = ("clean", "sign", "adversarial")


def panda(
    model: nn.Module,
    x: Tensor,
    *,
    radius: float,
    names: Sequence[str] | None = None,
    loss: str = "ce",
) -> tuple[dict[str, Any], Tensor]:
    """Return what `model` says of an image x [C, H, W] in [0, 1], of the gradient's sign, and of x after
    FGSM.

    Returns these figures, and the three images as `perturbed` makes them.

    clean, sign, adversarial   for each the class, its name and its confidence. The sign is judged as the
                    image that it is drawn as, 0 for -1 and 1 for +1. x + radius · sign is clamped to [0, 1].
    label           whose loss the gradient is of: the class that the model predicts
    fooled          whether the predicted class has changed
    zero_gradient   whether the gradient is 0 everywhere, so that nothing moves

    names: of the classes, their numbers unless given. loss: "ce" or "bce".
    """
    frozen = fa.freeze(model)
    label = int(frozen.verdict(x[None]).argmax())
    images = perturbed(model, x, label, radius=radius, loss=loss)
    classes = frozen.verdict(images).argmax(1)
    chances = frozen.confidence(images).gather(1, classes[:, None])[:, 0]

    def name(k: int) -> str:
        return str(k) if names is None else names[k]

    said = {
        part: {"class": k, "name": name(k), "confidence": chance}
        for part, k, chance in zip(PARTS, classes.tolist(), chances.tolist(), strict=True)
    }
    figures = {
        **said,
        "radius": radius,
        "label": label,
        "loss": loss,
        "fooled": bool(classes[2] != classes[0]),
        "zero_gradient": bool((images[1] == 0.5).all()),
    }
    return figures, images


def perturbed(model: nn.Module, x: Tensor, label: int, *, radius: float, loss: str = "ce") -> Tensor:
    """Return [3, C, H, W]: x, the sign of the gradient as an image, and x after FGSM."""
    x, y = x[None], x.new_full((1,), label).long()
    gradient = fa.freeze(model).input_gradient(x, y, loss, direction=True)[2]
    x_adv = fa.Linf(radius).step(x, gradient, x, radius)
    return cat([x, gradient.sign() / 2 + 0.5, x_adv])


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
