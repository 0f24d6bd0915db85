"""FGSM directions of other images: how often the same step, added to an image, breaks that one too."""

from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError


def reuse(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: fa.Threat,
    *,
    directions: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the share of errors when each image takes the FGSM step of another one, drawn at random.

    Each image x [N, ...] gets the steps of `directions` others, drawn by seed and its place. The step of one
    image ascends the loss of that image's own label. 46.2% in a line that the paper's source leaves out.

    error       the mean over all pairs of image and direction
    draws       the error of each of the draws
    same, other   over the pairs whose labels are equal, and over the others; None without any
    own, clean  with the image's own direction, and without any
    pairs       how many there are

    InputError for fewer than two images.
    """
    if len(x) < 2:
        raise InputError(f"x: expected two images or more, whose directions can be exchanged, got {len(x)}")
    frozen, size = fa.freeze(model), threat.default_step_size(1)
    gradient = frozen.input_gradient(x, y, direction=True)[2]

    def wrong(of: Tensor) -> Tensor:
        return frozen.verdict(threat.step(x, gradient[of], x, size)).argmax(1) != y

    places = torch.arange(len(x), device=x.device)
    drawn, alike = [], []
    for draw in range(directions):
        away = fa.rng.integers(len(x) - 1, fa.rng.derive(seed, "reuse"), places, draw) + 1
        of = (places + away) % len(x)
        drawn.append(wrong(of))
        alike.append(y[of] == y)
    broken, same = torch.stack(drawn), torch.stack(alike)
    return {
        "norm": threat.norm,
        "radius": threat.radius,
        "pairs": broken.numel(),
        "error": _share(broken),
        "draws": [_share(each) for each in broken],
        "same": _share(broken[same]),
        "other": _share(broken[~same]),
        "own": _share(wrong(places)),
        "clean": _share(frozen.verdict(x).argmax(1) != y),
    }


def _share(wrong: Tensor) -> float | None:
    return float(wrong.double().mean()) if wrong.numel() else None
