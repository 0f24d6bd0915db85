"""Checks of what steps in a threat are called with: the threat, its box, images in bytes, step sizes."""

import math
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_number, kind_of
from fastadv.errors import InputError
from fastadv.threat.base import Threat
from fastadv.threat.through import Through

StepSize = float | Tensor


def check_threat(threat: Threat, maps: bool = False) -> Threat:
    """Return a threat; InputError for anything else, and for a map of parameters unless `maps`."""
    if not isinstance(threat, Threat):
        raise InputError(
            f"threat: expected fa.Linf, L2, L1 or L0, got {threat!r}; a radius needs a norm: fa.Linf(8 / 255)"
        )
    if isinstance(threat, Through) and not maps:
        raise InputError(
            f"threat: expected fa.Linf, L2, L1 or L0, got {threat.name}, a map of parameters, which serves "
            "attacks and fa.evaluate alone"
        )
    return threat


def check_finite_box(name: str, threat: Threat) -> None:
    if not all(map(math.isfinite, threat.box)):
        raise InputError(f"box: expected a finite one, whose ends {name} uses, got {threat.box}")


def check_step_size(step_size: StepSize, x: Tensor, name: str = "step_size") -> StepSize:
    """Return the step size if it is a finite number >= 0, or [B] of them; raise InputError otherwise."""
    if not isinstance(step_size, Tensor) or step_size.ndim == 0:
        return check_number(name, step_size, 0)
    fits = step_size.shape == x.shape[:1] and step_size.dtype != torch.bool and not step_size.is_complex()
    if not fits or not bool((step_size.isfinite() & (step_size >= 0)).all()):
        raise InputError(
            f"{name}: expected finite numbers >= 0, one for each of {len(x)} samples, "
            f"got {kind_of(step_size)}: {step_size.tolist()}"
        )
    return step_size.to(x.device)


def from_bytes(x: Any, box: tuple[float, float]) -> Any:
    """Return images of uint8 as float32 in [0, 1], as data sets serve them, and others as they are."""
    if getattr(x, "dtype", None) is not torch.uint8:
        return x
    if box != (0, 1):
        raise InputError(
            f"x: expected floating values in the box [{box[0]:g}, {box[1]:g}], got uint8, which is served in "
            "[0, 1]; convert x yourself, or give the threat the box (0, 1)"
        )
    return x.float().div_(255)
