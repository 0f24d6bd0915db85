"""Step sizes where the caller names none."""

from fastadv.attacks._problem import StepSize, check_threat
from fastadv.threat import Threat


def has_finite_radius(threat: Threat) -> bool:
    """Whether the radius is finite for every sample. Raises InputError where `threat` is not a threat model."""
    check_threat(threat)
    return threat.finite


def step_size_for(threat: Threat, steps: int, factor: float, step_size: StepSize | None) -> StepSize:
    """The caller's step size, or the threat's default, which crosses the radius `factor` times in `steps` steps.

    Raises InputError where the radius is infinite and no step size is given.
    """
    check_threat(threat)
    return threat.default_step_size(steps, factor) if step_size is None else step_size
