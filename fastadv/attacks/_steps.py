"""Step sizes where the caller names none."""

import math

from torch import Tensor

from fastadv._checks import check_count
from fastadv.attacks._problem import StepSize, check_threat
from fastadv.errors import InputError
from fastadv.threat import Threat


def has_finite_radius(threat: Threat) -> bool:
    """Whether the radius is finite for every sample. Raises InputError where `threat` is none."""
    check_threat(threat)
    radius = threat.radius
    return bool(radius.isfinite().all()) if isinstance(radius, Tensor) else math.isfinite(radius)


def step_size_for(threat: Threat, steps: int, factor: float, step_size: StepSize | None) -> StepSize:
    """The caller's step size, or factor * radius / steps; in L0, where a step is a number of coordinates, rounded up.

    Raises InputError where the radius is infinite and no step size is given.
    """
    if step_size is not None:
        return step_size
    check_count("steps", steps, 0)
    if not has_finite_radius(threat):
        raise InputError(
            "step_size: expected a number where the radius is infinite, got none; give a length in input units"
        )
    size = threat.radius * (factor / max(steps, 1))
    if threat.norm != "l0":
        return size
    return size.ceil() if isinstance(size, Tensor) else math.ceil(size)
