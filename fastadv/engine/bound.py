"""Gradients of the model as given at x: the one body, and what leads from logits to x."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastadv import losses
from fastadv._torch import run_backward, version
from fastadv.engine.arguments import checked_directions
from fastadv.engine.checked import WRITES
from fastadv.engine.precision import no_autocast, with_gradient
from fastadv.engine.room import GRADIENT, may_halve, ran_out
from fastadv.errors import InputError, NoGradientError
from fastadv.ops._step import may_be_narrow
from fastadv.ops.logit_loss import KINDS
from fastadv.ops.registration.library import bind

Gradient = tuple[Tensor, Tensor, Tensor]
# points [B, ...] -> loss [B], logits [B, K], and the gradient like the points, right up to a positive factor
Ask = Callable[[Tensor], Gradient]


CUTS = (
    "model: expected logits that depend on x differentiably, got a model that cuts the graph; remove its "
    "no_grad, detach or integer step, or use an attack without gradients"
)


def pull(
    leaf: Tensor, attached: Tensor, by_attached: Tensor, retain_graph: bool = False, cuts: str = CUTS
) -> Tensor:
    """Return the gradient at `leaf` of by_attached @ attached; where the graph is cut an error `cuts`."""
    gradient = None
    # `torch.autograd.grad` does not serve: a `TorchFunctionMode` sees it instead of what it calls, and what a
    # checkpoint computes again has to be rewritten as before
    if attached.requires_grad:
        (gradient,) = run_backward((attached,), (by_attached,), retain_graph, (leaf,))
    if gradient is None:
        raise NoGradientError(cuts)
    return gradient


def jacobian(
    classifier: Any, reduce: Callable[[Tensor], Tensor] | None, x: Tensor,
    directions: Tensor | Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return what `Prepared.jacobian` does, by one pass of a classifier, a `Plain` or a search copy."""
    leaf, attached = classifier.followed(x)
    logits = attached.detach().clone()
    chosen = checked_directions(directions(logits) if callable(directions) else directions, logits)
    gradients = x.new_empty(len(x), chosen.shape[1], *(x.shape[1:] if reduce is None else ()))
    for place, by_logits in enumerate(chosen.unbind(1)):
        stays = place + 1 < chosen.shape[1]  # the last lets go of the graph while it goes back
        gradient = classifier.pull(leaf, attached, by_logits, stays).to(x.dtype)
        gradients[:, place] = gradient if reduce is None else reduce(gradient)
    classifier.counts.backwards += classifier.eot * gradients.shape[:2].numel()
    return logits, gradients


def graded(
    logits: Tensor, y: Tensor, loss: losses.Loss, targets: Tensor | None, direction: bool
) -> tuple[Tensor, Tensor]:
    """Do as `losses.loss_and_grad`, for labels that are known to fit."""
    if callable(loss) or loss not in KINDS or logits.dtype != torch.float32:
        return losses.loss_and_grad(logits, y, loss, targets, direction)
    value = logits.new_empty(logits.shape[0])
    by_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    bind("logit_loss", logits.device)(value, by_logits, logits, y, loss, targets, direction)
    return value, by_logits


class Bound:
    """Loss, logits and gradient of a plain model at points of the same samples, a pass each time.

    The call around casts nothing, and holds the model in eval mode.
    """

    def __init__(
        self, plain: Any, y: Any, loss: losses.Loss, targets: Tensor | None, direction: bool,
        known: bool = False,
    ) -> None:  # fmt: skip
        """Bind a `Plain`; `known` says that labels and targets were checked."""
        self._plain, self._y, self._loss, self._targets = plain, y, loss, targets
        self._direction = direction
        self._grade = graded if known else losses.loss_and_grad
        self._model: Any = plain.checked

    def __call__(self, points: Tensor) -> Gradient:
        plain, whole = self._plain, callable(self._loss)  # it may hold one value for each sample of the batch
        if whole or plain.fits(points):
            # a new leaf each time: a forward may hang hooks on it
            leaf, before = plain.leaf(points), version(points)
            attached: Any = None
            try:
                with torch.enable_grad():
                    attached = self._model(leaf)
                if version(points) != before:
                    raise InputError(WRITES)
                plain.counts.forwards += points.shape[0]
                # copied, since they may be a part of x, or of memory that the next pass writes
                logits = attached.detach().clone()
                value, by_logits = self._grade(logits, self._y, self._loss, self._targets, self._direction)
                gradient = plain.pull(leaf, attached, by_logits)
                plain.counts.backwards += points.shape[0]
                if self._model is plain.checked and plain.checked.as_is:
                    self._model = plain.checked.model  # nothing is left to be checked
                narrow = self._direction and may_be_narrow(gradient, points)
                return value, logits, gradient if narrow else gradient.to(points.dtype)
            except Exception as error:  # models raise anything
                if whole or not may_halve(error, points, plain.rows_apart):
                    if attached is None:
                        plain.refuse("forward", error, leaf)
                    raise
            # Outside of `except`: the error holds on to what the pass had in memory
            leaf = attached = None
            plain.room.halve(GRADIENT, points, len(points))
        answer: Gradient = plain.room.passes(
            GRADIENT, self._of_part, points, self._y, self._targets, apart=plain.rows_apart,
            most=plain.full_batch(points),
        )  # fmt: skip
        return answer

    def _of_part(self, points: Tensor, y: Tensor | None, targets: Tensor | None) -> Gradient:
        return Bound(self._plain, y, self._loss, targets, self._direction)(points)


@dataclass
class CleanPass:
    """Logits of a pass at x that waits for its backward pass, within the call that made it.

    Attributes:
        classifier: the `Prepared` that passed x.
        x: [B, ...].
        rows: int64 [B], of which samples of the batch x are; None for all.
        logits: [B, K].
        back: gives the gradient at x from one at the logits.
    """

    classifier: Any
    x: Tensor
    rows: Tensor | None
    logits: Tensor
    back: Callable[[Tensor], Tensor]

    def gradient(
        self, rows: Tensor | None, y: Tensor, loss: losses.Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        """Return the same as `Prepared.input_gradient` at the rows int64 [n], None for all; once."""
        logits = self.logits if rows is None else self.logits[rows]
        value, by_logits = graded(logits, y, loss, targets, direction)
        if rows is not None:
            by_logits = torch.zeros_like(self.logits).index_copy_(0, rows, by_logits.to(self.logits))
        try:
            gradient = self.back(by_logits)
            self.classifier.counts.backwards += self.x.shape[0]
            return value, logits, gradient if rows is None else gradient[rows]
        except Exception as error:
            if callable(loss) or not ran_out(error):
                raise
        # Outside of `except`: the error holds on to what the pass had in memory
        del self.back
        x, places = self.x, self.rows
        if rows is not None:
            x, places = x[rows], rows if places is None else places[rows]
        answer: Gradient = self.classifier.input_gradient(x, y, loss, targets, direction, places)
        return answer


class Followed(torch.autograd.Function):
    """Logits for code that calls a model as PyTorch does: their gradient goes to x alone, and is counted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plain: Any) -> Tensor:
        with with_gradient(), plain.in_eval(), no_autocast(x.device.type):
            ctx.plain, ctx.dtype = plain, x.dtype
            ctx.leaf, ctx.attached = plain.followed(plain.checked_x(x))
            logits: Tensor = ctx.attached.detach().clone()
            return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logits: Tensor) -> tuple[Tensor, None]:
        plain = ctx.plain
        with with_gradient(), plain.in_eval(), no_autocast(by_logits.device.type):
            gradient = plain.pull(ctx.leaf, ctx.attached, by_logits, True)
        plain.counts.backwards += plain.eot * len(gradient)
        return gradient.to(ctx.dtype), None
