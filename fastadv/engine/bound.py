"""Gradients at x: from those at the logits; of one batch, asked for many times or after its clean verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastadv import losses
from fastadv._torch import run_backward, version
from fastadv.engine.arguments import checked_directions
from fastadv.engine.checked import WRITES, CheckedModel
from fastadv.engine.precision import NOTHING, no_autocast, with_gradient
from fastadv.engine.room import ran_out
from fastadv.errors import InputError, NoGradientError
from fastadv.ops.registration.library import bind


def pull(attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
    """Return the gradient at `leaf` of by_logits @ attached."""
    gradient = None
    # `torch.autograd.grad` does not serve: a `TorchFunctionMode` sees it instead of what it calls, and what a
    # checkpoint computes again has to be rewritten as before
    if attached.requires_grad:
        (gradient,) = run_backward((attached,), (by_logits,), retain_graph, (leaf,))
    if gradient is None:
        raise NoGradientError(
            "model: expected logits that depend on x differentiably, got a model that cuts the graph; "
            "remove its no_grad, detach or integer step, or use an attack without gradients"
        )
    return gradient


def pull_each(
    x: Tensor, logits: Tensor, directions: Tensor | Callable[[Tensor], Tensor],
    reduce: Callable[[Tensor], Tensor] | None, back: Callable[[Tensor, bool], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the directions [B, C, K], their gradients by `back`, each reduced, and the first as it is.

    `back` is told whether its graph must stay for more: the last lets go of it while it goes back.
    """
    chosen = checked_directions(directions(logits) if callable(directions) else directions, logits)
    gradients = x.new_empty(len(x), chosen.shape[1], *(x.shape[1:] if reduce is None else ()))
    first: Tensor | None = None
    for place, by_logits in enumerate(chosen.unbind(1)):
        gradient = back(by_logits, place + 1 < chosen.shape[1]).to(x.dtype)
        if first is None:
            first = gradient.clone()  # `reduce` may write into it
        gradients[:, place] = gradient if reduce is None else reduce(gradient)
    return chosen, gradients, torch.zeros_like(x) if first is None else first


Gradient = tuple[Tensor, Tensor, Tensor]
# points [B, ...] -> loss [B], logits [B, K], and the gradient like the points, right up to a positive factor
Ask = Callable[[Tensor], Gradient]


class Bound:
    """Loss, logits and gradient of a plain model, which the call around holds in eval mode."""

    # A pass that fails is replaced by `otherwise` from then on, which says why, or mends

    def __init__(
        self, plain: Any, otherwise: Ask, x: Tensor, y: Tensor, loss: str, targets: Tensor | None
    ) -> None:
        """Bind a `Plain`."""
        self._plain, self._otherwise = plain, otherwise
        self._rest = y, loss, targets
        self._kernel = bind("logit_loss", x.device)
        self._by_logits = x.new_empty(0)  # which the next call overwrites
        self._model: Callable[[Tensor], Tensor] | None = plain.checked
        self._checked: CheckedModel | None = plain.checked  # until its checks are done
        self._copies = False  # whether logits are copied, since they move with the points

    def __call__(self, points: Tensor) -> Gradient:
        if self._model is None:
            return self._otherwise(points)
        # a new leaf each time: a forward may hang hooks on it
        plain, before, leaf = self._plain, version(points), self._plain.leaf(points)
        checked = self._checked
        try:
            with torch.enable_grad(), checked.differentiated() if checked else NOTHING:
                attached = self._model(leaf)
                logits = attached.detach().clone() if self._copies else attached.detach()
                if logits.shape != self._by_logits.shape:
                    logits = self._meet(logits, leaf)
                value = logits.new_empty(logits.shape[0])
                self._kernel(value, self._by_logits, logits, *self._rest, True)
                (gradient,) = run_backward((attached,), (self._by_logits,), False, (leaf,))
            if checked and checked.is_bare(leaf.shape[0]):
                # All checks of a pass are done; logits that lie in x are still to be seen
                self._checked, self._model = None, checked.model
                self._by_logits = value.new_empty(0)
            if gradient is not None and version(points) == before:
                plain.count(points.shape[0])
                return value, logits, gradient
        except InputError:
            raise
        except Exception:  # models raise anything
            pass
        # Outside of `except`: the error holds on to what the pass had in memory
        self._model = None
        if version(points) != before:
            raise InputError(WRITES)
        return self._otherwise(points)

    def _meet(self, logits: Tensor, leaf: Tensor) -> Tensor:
        """Take the first logits of a batch, which were checked; return them as they are to be kept."""
        if logits.dtype != torch.float32:
            raise TypeError("kernels take float32")
        place = leaf.untyped_storage().data_ptr()
        self._by_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
        # those of the model's own call are met a second time, by then as copies
        self._copies = self._copies or logits.untyped_storage().data_ptr() == place
        return logits.clone() if self._copies else logits


@dataclass
class CleanPass:
    """Logits of a pass at x that waits for its backward pass."""

    plain: Any
    x: Tensor
    leaf: Tensor
    attached: Tensor
    logits: Tensor

    def gradient(
        self, rows: Tensor | None, y: Tensor, loss: losses.Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        """Return the same as `Prepared.input_gradient` at the rows int64 [n], None for all; once."""
        plain, logits = self.plain, self.logits if rows is None else self.logits[rows]
        with with_gradient(), plain.in_eval(), no_autocast(self.x.device.type):
            value, by_logits = losses.loss_and_grad(logits, y, loss, targets, direction)
            if rows is not None:
                by_logits = torch.zeros_like(self.logits).index_copy_(0, rows, by_logits.to(self.logits))
            try:
                # The dtype is the one that the model sees: half precision of x may hold less
                gradient = plain.pull(self.leaf, self.attached, by_logits)
                plain.counts.backwards += self.x.shape[0]
                return value, logits, gradient if rows is None else gradient[rows]
            except Exception as error:
                if callable(loss) or not ran_out(error):
                    raise
        # Outside of `except`: the error holds on to what the pass had in memory
        self.attached = self.logits  # lets go of the graph
        x = self.x if rows is None else self.x[rows]
        answer: Gradient = plain.input_gradient(x, y, loss, targets, direction)
        return answer


class Followed(torch.autograd.Function):
    """Logits for code that calls a model as PyTorch does: their gradient goes to x alone, and is counted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plain: Any) -> Tensor:
        with with_gradient(), plain.in_eval(), no_autocast(x.device.type):
            ctx.plain, ctx.dtype = plain, x.dtype
            ctx.leaf = plain.leaf(plain.taken(x))
            ctx.attached = plain.follow(ctx.leaf)
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
