"""Rotating an image a little towards its gradient: the paper's other perturbation, which has no radius."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa

ROUNDING = 1e-6  # what is left of a gradient along x, beside it


def rotated(x: Tensor, gradient: Tensor, angle: float) -> Tensor:
    """Return x [B, ...] turned by `angle`, in radians, in the plane of x and its gradient, towards the
    gradient.

    Each sample keeps its L2 norm. One whose gradient is zero, or along x, stays.
    """
    flat, way = x.flatten(1), gradient.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    # scaled first, since a gradient may be too small to be squared
    way = way / way.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    along = flat / length.clamp(min=torch.finfo(x.dtype).tiny)
    across = way - (way * along).sum(1, keepdim=True) * along
    size = across.norm(dim=1, keepdim=True)
    turned = math.cos(angle) * flat + math.sin(angle) * length * across / size
    return torch.where(size > ROUNDING * way.norm(dim=1, keepdim=True), turned, flat).view_as(x)


def rotation(model: nn.Module, x: Tensor, y: Tensor, degrees: Sequence[float]) -> dict[str, Any]:
    """Return the errors of `model` on x [N, ...] rotated by each of these angles towards the gradient of the
    loss.

    The results leave the box of the images. `linf` is the mean over the images of the largest change of a
    pixel, for comparison with the radius of FGSM.
    """
    frozen = fa.freeze(model)
    gradient = frozen.input_gradient(x, y, direction=True)[2]
    errors, reach = [], []
    for angle in degrees:
        moved = rotated(x, gradient, math.radians(angle))
        errors.append(float((frozen.verdict(moved).argmax(1) != y).double().mean()))
        reach.append(float((moved - x).abs().flatten(1).amax(1).double().mean()))
    return {"degrees": list(degrees), "error": errors, "linf": reach}
