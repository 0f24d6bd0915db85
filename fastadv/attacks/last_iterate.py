"""Steepest ascent alone, for training and for the construction of data sets."""

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_count
from fastadv.attacks._problem import StepSize, check_step_size, check_threat
from fastadv.engine import Frozen
from fastadv.errors import InputError
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
    """x_adv after `steps` steps of steepest ascent in the threat, from `start` or else from x.

    The last point is returned, not the best, and no verdict is taken, as training and the construction of
    data sets need it. The values of x are not checked: they must be finite and inside the box.

    Args:
        frozen: what `fastadv.freeze` returns.
        x: floating [B, ...] inside the box.
        y: int [B], labels; None where targets, or a loss that does not read it, are given.
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; it may be infinite.
        steps: steps; 0 returns the start.
        step_size: a number or [B], in input units (L0: coordinates).
        loss: "ce", "margin", "dlr", "cw", "bce", or a function (logits, y, targets) -> [B], maximised.
        targets: int [B]; ascend towards these classes instead of away from y.
        start: like x, inside the threat.

    Raises InputError on an argument of the wrong kind, naming it.
    """
    check_count("steps", steps, 0)
    check_threat(threat)
    losses.check_loss(loss)
    if not isinstance(frozen, Frozen):
        raise InputError(
            f"frozen: expected a frozen model, got {type(frozen).__name__}; call fastadv.freeze first"
        )
    for name, value in (("x", x), ("start", x if start is None else start)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != x.shape:
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name}: expected a floating tensor [B, ...], start like x, got {got}")
    with torch.inference_mode(False), torch.no_grad():
        if (
            not isinstance(step_size, Tensor) or step_size.device.type == "cpu"
        ):  # elsewhere it would wait for the device
            step_size = check_step_size(step_size, len(x), x.device)
        x = frozen.layout(x.clone() if x.is_inference() else x.detach())
        x_adv = x.clone() if start is None else frozen.layout(start.detach()).clone()
        for _ in range(steps):
            gradient = frozen.input_gradient(x_adv, y, loss, targets, direction=True)[2]
            threat.step_(x_adv, gradient, x, step_size)
        return x_adv
