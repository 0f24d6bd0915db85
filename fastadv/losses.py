"""Per-sample losses that attacks ascend. Most formulas are in ops/logit_loss.py."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from fastadv._checks import check_choice
from fastadv._torch import nodes_of
from fastadv.errors import InputError
from fastadv.ops import logit_loss
from fastadv.ops._rows import wide
from fastadv.ops.logit_loss import KINDS

LOSSES = (*KINDS, "bce")

LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Loss = str | LossFunction

__all__ = [
    "LOSSES",
    "Loss",
    "LossFunction",
    "binary_cross_entropy",
    "check_loss",
    "log_confidence",
    "log_mean",
    "loss_and_grad",
    "loss_value",
]


def check_loss(loss: Loss) -> Loss:
    """Raise InputError unless a loss is a name in LOSSES or can be called.

    Args:
        loss: a name or a function.

    Returns:
        The loss.

    Raises:
        InputError: it is neither.
    """
    other = " or a function (logits, y, targets) -> [B]"
    return loss if callable(loss) else check_choice("loss", loss, LOSSES, other)


def binary_cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sum over classes the cross-entropy of a sigmoid with "is it this class?".

    For models that give each class a probability of its own, such as RBF networks.

    Args:
        logits: [B, K].
        y: int [B], labels.
        smoothing: the share of each label that is spread over all classes, in [0, 1).

    Returns:
        [B].
    """
    right = torch.zeros_like(logits).scatter_(1, y[:, None], 1.0)
    right = (1 - smoothing) * right + smoothing / logits.shape[1]
    return binary_cross_entropy_with_logits(logits, right, reduction="none").sum(1)


def log_confidence(model: Any, logits: Tensor) -> Tensor:
    """Return the log probability of each class that a model means by its logits; differentiable.

    This is the log softmax, unless the model has a method `log_confidence(logits)` of its own, as those have
    whose probabilities need not sum to 1 (an RBF network), or are calibrated (`ABS`).

    Args:
        model: the classifier.
        logits: [B, K].

    Returns:
        [B, K].
    """
    method = getattr(model, "log_confidence", None)
    confidence: Tensor = method(logits) if callable(method) else logits.log_softmax(1)
    return confidence


def log_mean(logits: Tensor) -> Tensor:
    """Compute the log of the mean of softmaxes, in float32 or wider.

    Args:
        logits: [m, B, K], of m passes.

    Returns:
        [B, K].
    """
    return logits.to(wide(logits.dtype)).log_softmax(2).logsumexp(0) - math.log(len(logits))


def _bce_and_grad(
    logits: Tensor, y: Tensor, targets: Tensor | None, direction: bool
) -> tuple[Tensor, Tensor]:
    """Do as `logit_loss`, for "bce": in a row with a logit that is not finite, loss and gradient are NaN."""
    z = logits.detach().to(wide(logits.dtype))
    aim, sign = (y, 1.0) if targets is None else (targets, -1.0)
    way = torch.ones_like(z).scatter_(1, aim[:, None], -1.0)
    # Logarithms, because sigmoids underflow where the model is sure
    size = logsigmoid(way * z)
    if direction:
        size = size - size.amax(1, keepdim=True)
    finite = z.isfinite().all(1)
    loss = torch.where(finite, sign * binary_cross_entropy(z, aim), torch.nan)
    grad = torch.where(finite[:, None], sign * way * size.exp(), torch.nan)
    return loss, grad.to(logits.dtype)


def _value(loss: LossFunction, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """Return the checked value [B] of a loss that is a function."""
    try:
        value: object = loss(logits, y, targets)
    except (InputError, torch.cuda.OutOfMemoryError):
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        name = getattr(loss, "__name__", type(loss).__name__)
        raise InputError(
            f"loss: expected a function (logits, y, targets) -> [B], got {name}, which raised: {error}; pass "
            "loss='ce', or lambda logits, y, targets: F.cross_entropy(logits, y, reduction='none')"
        ) from error
    if isinstance(value, Tensor) and value.is_floating_point() and value.shape == logits.shape[:1]:
        return value
    got = type(value).__name__
    if isinstance(value, Tensor):
        got = f"{tuple(value.shape)}" if value.is_floating_point() else f"{value.dtype}"
    raise InputError(
        f"loss: expected one value a sample, a floating tensor of shape ({logits.shape[0]},), got {got}; "
        "do not average over the batch (reduction='none')"
    )


def _sees_other_rows(value: Tensor, leaf: Tensor) -> bool:
    """Return whether a graph leads to a batch other than `leaf`, as that of x or of features does."""
    held = (getattr(node, "variable", leaf) for node in nodes_of(value.grad_fn))
    others = (one for one in held if one is not leaf and not isinstance(one, nn.Parameter))
    return any(other.shape[:1] == leaf.shape[:1] for other in others)


def loss_and_grad(
    logits: Tensor, y: Tensor, loss: Loss, targets: Tensor | None = None, direction: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a per-sample loss and its gradient with respect to the logits.

    Args:
        logits: [B, K].
        y: int [B], labels.
        loss: a name of `LOSSES`, or a function (logits, y, targets) -> [B], to be maximized.
        targets: int [B], wanted classes, or None.
        direction: whether the gradient must be right only up to a positive factor for each row, which keeps
            that of "ce", "ce_sharp" and "bce" from underflowing on confident rows.

    Returns:
        loss [B] and gradient [B, K].

    Raises:
        InputError: the loss is neither a name nor a function, or its value has another shape or no graph.

    Example:
        >>> import torch, fastadv as fa
        >>> logits, y = torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([0])
        >>> fa.losses.loss_and_grad(logits, y, "margin")
        (tensor([2.]), tensor([[-1.,  1.,  0.]]))
    """
    if isinstance(loss, str) and loss in KINDS:
        return logit_loss(logits.detach(), y, loss, targets, direction)
    if not callable(loss):
        check_loss(loss)
        return _bce_and_grad(logits, y, targets, direction)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        value, grad = _value(loss, leaf, y, targets), None
        if value.requires_grad and not _sees_other_rows(value, leaf):
            (grad,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    if grad is None:
        got = "one of x or of features" if value.requires_grad else "a value without a graph"
        raise InputError(
            f"loss: expected a differentiable function of the logits, got {got}; a loss sees (logits, y, "
            "targets), detached from the model: compute it from these, without detach() or no_grad()"
        )
    return value.detach(), grad


def loss_value(logits: Tensor, y: Tensor, loss: Loss, targets: Tensor | None = None) -> Tensor:
    """Return a per-sample loss alone.

    Args:
        others: as in `loss_and_grad`.

    Returns:
        [B].
    """
    if not callable(loss):
        return loss_and_grad(logits, y, loss, targets)[0]
    with torch.no_grad():
        return _value(loss, logits.detach(), y, targets)
