"""Per-sample losses that attacks ascend; the mathematics of the named ones is on the op's page, ops/logit_loss.py."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.ops import logit_loss
from fastadv.ops.logit_loss import KINDS as LOSSES

LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Loss = str | LossFunction

__all__ = ["LOSSES", "Loss", "LossFunction", "loss_and_grad", "loss_value"]


def _checked(value: object, logits: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != logits.shape[:1]:
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"loss: expected one value a sample, a tensor of shape ({logits.shape[0]},), got {came}; do not average over the batch"
        )
    return value


def loss_and_grad(
    logits: Tensor, y: Tensor, loss: Loss, targets: Tensor | None = None, direction: bool = False
) -> tuple[Tensor, Tensor]:
    """(loss [B], gradient on the logits [B, K]) of a named loss ("ce", "margin", "cw", "dlr") or of a callable.

    A callable takes (logits, y, targets) and returns one value a sample, to be maximised. With `direction` the gradient is right up to a
    positive factor per row, which keeps ce's from underflowing on confident rows. Raises InputError on a loss of another shape or name.
    """
    if isinstance(loss, str):
        return logit_loss(logits.detach(), y, loss, targets, direction)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        value = _checked(loss(leaf, y, targets), logits)
        if not value.requires_grad:
            raise InputError(
                "loss: expected a differentiable function of the logits, got a value without a graph; remove detach() or no_grad()"
            )
        (grad,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), grad


def loss_value(logits: Tensor, y: Tensor, loss: Loss, targets: Tensor | None = None) -> Tensor:
    """The per-sample loss [B] alone."""
    if isinstance(loss, str):
        return logit_loss(logits.detach(), y, loss, targets)[0]
    with torch.no_grad():
        return _checked(loss(logits.detach(), y, targets), logits)
