"""A batch to attack, checked once; the loop follows its samples as the active set shrinks."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.threat import THREATS, Threat

StepSize = float | Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """x [B, ...], labels y [B], targets [B] or None, sample numbers ids [B], and the threat, with its per-sample radius."""

    x: Tensor
    y: Tensor
    threat: Threat
    targets: Tensor | None
    ids: Tensor

    def take(self, index: Tensor) -> Self:
        """The samples `index` alone."""
        targets = None if self.targets is None else self.targets[index]
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            threat=self.threat.take(index),
            targets=targets,
            ids=self.ids[index],
        )

    def decided(self, logits: Tensor) -> Tensor:
        """bool [B]: the logits [B, K] decide for the target, or against the label where there is none."""
        decided = logits.argmax(1)
        return decided != self.y if self.targets is None else decided == self.targets

    def met(self, logits: Tensor) -> Tensor:
        """bool [B]: `decided`, by logits that are all finite."""
        return self.decided(logits) & logits.isfinite().all(1)


def problem(
    x: Tensor, y: Tensor, threat: Threat, targets: Tensor | None = None, ids: Tensor | None = None
) -> Problem:
    """The checked problem. Raises InputError on a wrong shape, dtype, device or value, naming it."""
    check_threat(threat)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"x: expected a floating tensor [B, ...] of rank 2 or more, got {got}; convert integer images with x.float() / 255"
        )
    x = x.clone() if x.is_inference() else x.detach()
    _check_values(x, threat.box)
    size = len(x)
    y = _index("y", y, size, x.device)
    if targets is not None:
        targets = _index("targets", targets, size, x.device)
        if bool((targets == y).any()):
            place = int((targets == y).nonzero()[0])
            raise InputError(
                f"targets: expected a class other than the label, got label {int(y[place])} as target of sample {place}"
            )
    ids = torch.arange(size, device=x.device) if ids is None else _index("ids", ids, size, x.device)
    if isinstance(threat.radius, Tensor) and threat.radius.ndim:
        if threat.radius.shape != (size,):
            raise InputError(
                f"radius: expected a number or one for each of {size} samples, got shape {tuple(threat.radius.shape)}"
            )
        threat = threat.with_radius(threat.radius.to(x.device))
    return Problem(x, y, threat, targets, ids)


def check_threat(threat: Threat) -> None:
    """Raise InputError unless `threat` is a threat model."""
    if not isinstance(threat, Threat):
        raise InputError(
            f"threat: expected one of fastadv.{', '.join(kind.__name__ for kind in THREATS.values())}, got {type(threat).__name__}; a radius needs a norm"
        )


def check_classes(problem: Problem, classes: int) -> None:
    """Raise InputError where a label or target is not one of the model's classes."""
    for name, values in (("y", problem.y), ("targets", problem.targets)):
        if (
            values is not None
            and len(values)
            and not (int(values.min()) >= 0 and int(values.max()) < classes)
        ):
            raise InputError(
                f"{name}: expected classes 0 to {classes - 1}, which the model has, got {int(values.min())} to {int(values.max())}"
            )


def check_step_size(step_size: StepSize, size: int, device: torch.device) -> StepSize:
    """A finite number >= 0, or [B] of them on the samples' device; InputError otherwise."""
    if not isinstance(step_size, Tensor):
        if not (math.isfinite(step_size) and step_size >= 0):
            raise InputError(
                f"step_size: expected a finite number >= 0, got {step_size}; give one where the radius is infinite"
            )
        return float(step_size)
    if step_size.ndim == 0:
        return check_step_size(float(step_size), size, device)
    if step_size.shape != (size,) or not bool((step_size.isfinite() & (step_size >= 0)).all()):
        raise InputError(
            f"step_size: expected finite numbers >= 0, one for each of {size} samples, got {step_size}"
        )
    return step_size.to(device)


def _check_values(x: Tensor, box: tuple[float, float]) -> None:
    if x.numel() == 0:
        return
    least, most = x.aminmax()
    if not bool(least.isfinite() & most.isfinite()):
        bad = int((~x.isfinite()).sum())
        raise InputError(
            f"x: expected finite values, got {bad} that are NaN or infinite; clean the data first"
        )
    low, high = torch.tensor(box, dtype=x.dtype, device=x.device)
    if bool((least < low) | (most > high)):
        raise InputError(
            f"x: expected values in the box [{box[0]:g}, {box[1]:g}], got [{float(least):g}, {float(most):g}]; set the threat's box, "
            "or keep x in it and normalise inside the model (fastadv.models.Normalized)"
        )


def _index(name: str, values: Tensor, size: int, device: torch.device) -> Tensor:
    if (
        not isinstance(values, Tensor)
        or values.shape != (size,)
        or values.is_floating_point()
        or values.dtype == torch.bool
    ):
        got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"{name}: expected one integer for each of {size} samples, a tensor [{size}], got {got}"
        )
    if values.device != device:
        raise InputError(
            f"{name}: expected a tensor on {device}, where x is, got {values.device}; move one to the other"
        )
    return (values.clone() if values.is_inference() else values.detach()).long()
