"""The panda of figure 1 for any model and image: x, the sign of the gradient, and their sum."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, cat, nn

import fastadv as fa
from papers.goodfellow2014.figures import PARTS
from papers.goodfellow2014.models import EachOnItsOwn, confidence


def panda(
    model: nn.Module, x: Tensor, *, radius: float, names: Sequence[str] | None = None
) -> tuple[dict[str, Any], Tensor]:
    """Return what `model` says of an image x [C, H, W] in [0, 1], the gradient's sign, and x after FGSM.

    And these images [3, C, H, W]: the sign is judged as it is drawn, 0 for -1 and 1 for +1.
    """
    loss = "bce" if isinstance(model, EachOnItsOwn) else "ce"
    frozen = fa.freeze(model)
    x = x[None]
    y = frozen.verdict(x).argmax(1)
    gradient = frozen.input_gradient(x, y, loss, direction=True)[2]
    images = cat([x, gradient.sign() / 2 + 0.5, fa.Linf(radius).step(x, gradient, x, radius)])
    classes = frozen.verdict(images).argmax(1)
    chances = confidence(frozen, images).gather(1, classes[:, None])[:, 0]
    found: dict[str, Any] = {
        part: {"class": k, "name": str(k) if names is None else names[k], "confidence": chance}
        for part, k, chance in zip(PARTS, classes.tolist(), chances.tolist(), strict=True)
    }
    return {**found, "radius": radius, "fooled": bool(classes[2] != classes[0])}, images
