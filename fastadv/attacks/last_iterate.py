"""Steepest ascent alone, for training and for the construction of data sets."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import eager, kind_of
from fastadv._waiting import waits
from fastadv.attacks import core
from fastadv.attacks.core.checks import StepSize, check_step_size, check_threat, from_bytes
from fastadv.attacks.core.repeat import Walk
from fastadv.engine import Model, Prepared, prepare
from fastadv.engine.capture import Rows
from fastadv.errors import InputError
from fastadv.labels import check_index
from fastadv.ops.logit_loss import KINDS
from fastadv.threat import Threat


@eager
def last_iterate(
    model: Model | Prepared, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int, step_size: StepSize,
    loss: losses.Loss = "ce", targets: Tensor | None = None, start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return x_adv after `steps` steps of steepest ascent in the threat, from `start` or else from x.

    The last point is returned, not the best, and no final check is made. Training and the construction of
    data sets need this; to measure robustness, use `pgd`. The values of x are not checked.

    Args:
        model: classifier or Frozen; x [B, ...] to logits [B, K].
        x: floating [B, ...] inside the box.
        y: int [B], labels; None where targets, or a loss that does not read it, are given.
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; it may be infinite.
        steps: an integer >= 0; 0 returns the start.
        step_size: a number or [B], in input units (L0: coordinates).
        loss: as in `pgd`; "ce", the default, is what the papers train and build with.
        targets: int [B]; ascend towards these classes instead of away from y.
        start: like x, inside the threat; None is x.

    Returns:
        The last points, like x.

    Raises:
        InputError: an argument is of the wrong kind; the message names it.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> x_adv = fa.attacks.last_iterate(model, x, y, fa.Linf(0.3), steps=5, step_size=0.1)
        >>> bool(fa.Linf(0.3).contains(x_adv, x).all())
        True
    """
    core.check_count("steps", steps, 0)
    check_threat(threat)
    losses.check_loss(loss)
    classifier, x = prepare(model), from_bytes(x, threat.box)
    for name, value in (("x", x), ("start", x if start is None else start)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != x.shape:
            raise InputError(
                f"{name}: expected a floating tensor [B, ...], start like x, got {kind_of(value)}"
            )
    if isinstance(loss, str) and y is not None:
        y = check_index("y", y, len(x), x.device)
    with torch.inference_mode(False), torch.no_grad(), classifier.in_eval():
        if not isinstance(step_size, Tensor) or not waits(step_size.device):
            step_size = check_step_size(step_size, x)
        given = x.clone() if x.is_inference() else x.detach()
        x = classifier.layout(given)
        x_adv = x.clone() if start is None else classifier.layout(start.detach()).clone()

        def look(model: Prepared, rows: Rows) -> Callable[[Tensor], Tensor]:
            y, targets = rows.get("y"), rows.get("targets")
            labels, ask = targets if y is None else y, None
            if checked and labels is not None and not callable(loss) and loss in KINDS:
                ask = model.bind(rows["x"], labels, loss, targets)
            general = partial(model.input_gradient, y=y, loss=loss, targets=targets, direction=True)
            checked.append(True)  # by the first gradient
            return lambda points: (ask or general)(points)[2]

        checked = list[bool]()
        # a loss that is a function may hold one value for each sample
        walk = Walk(threat, look, step_size, ("last_iterate", loss) if isinstance(loss, str) else None)
        x_adv = walk(classifier, walk.rows(x_adv, x, y=y, targets=targets), steps)
        # a Frozen may prefer an order of memory that the model refuses
        return x_adv.contiguous() if given.is_contiguous() else torch.empty_like(given).copy_(x_adv)
