"""Steepest ascent without bookkeeping, for training and for the construction of data sets."""

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks._problem import StepSize
from fastadv.engine import Frozen
from fastadv.threat import Threat


def last_iterate(
    frozen: Frozen,
    x: Tensor,
    y: Tensor | None,
    threat: Threat,
    *,
    steps: int,
    step_size: StepSize,
    loss: losses.Loss = "ce",
    targets: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """x_adv after `steps` of steepest ascent from `start` (default x), in the threat; no checks, no verdicts, no best.

    For training and for the construction of data sets, where the last point is what is wanted. y may be None where
    targets, or a loss that does not read it, are given.
    """
    with torch.inference_mode(False), torch.no_grad():
        x = frozen.layout(x.clone() if x.is_inference() else x.detach())
        x_adv = x.clone() if start is None else frozen.layout(start.detach()).clone()
        for _ in range(steps):
            gradient = frozen.input_gradient(x_adv, y, loss, targets, direction=True)[2]
            threat.step_(x_adv, gradient, x, step_size)
        return x_adv
