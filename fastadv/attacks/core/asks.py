"""What a search asks of the classifier: loss, logits and gradient at points, without a verdict."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks.core.judge import loss_of, repeated
from fastadv.attacks.core.samples import R_co, Samples
from fastadv.engine.bound import Ask, Gradient
from fastadv.ops.logit_loss import KINDS

# values of x that pass the model at once where a rule asks for many candidates a sample
CHUNK = 1 << 22


class Asks(Samples[R_co]):
    """Samples under attack, and what is asked of the classifier about points of theirs."""

    def ask(self, loss: losses.Loss) -> Ask:
        """Return what gives loss, logits and gradient, chosen once for the samples that are here."""
        chosen = loss, self.met, id(self.aims)
        if self._asked[0] != chosen:
            self._asked = chosen, self._chosen(loss)
        ask: Ask = self._asked[1]
        return ask

    def _chosen(self, loss: losses.Loss) -> Ask:
        """Return what follows gradient rules, takes the first gradient, or asks by kernels or without."""
        if self.plan.gradient is not None:
            follow: Any = self.plan.gradient
            return partial(follow, self, loss=loss)
        if self.clean_pass is not None:
            return partial(self._first, loss, True)
        met, self.met = self.met, True  # the first gradient checks the model
        return (self._bound(loss) if met else None) or self._pull(loss)

    def _bound(self, loss: losses.Loss) -> Ask | None:
        """Return what asks by kernels; None where that takes more."""
        if callable(loss) or not (self.problem.single and loss in KINDS):
            return None
        return self.classifier.bind(self.x, self.y, loss, self.aims, self.problem.rows)

    def _pull(self, loss: losses.Loss, direction: bool = True) -> Ask:
        """Return what gives loss, logits and gradient in a pass of its own."""
        about: dict[str, Any] = {"loss": loss, "targets": self.aims, "direction": direction}
        return partial(self.classifier.input_gradient, y=self.y, rows=self.problem.rows, **about)

    def _first(self, loss: losses.Loss, direction: bool, points: Tensor) -> Gradient:
        """Return the first gradient: at x by the pass that gave the clean verdict, where that waits."""
        clean, self.clean_pass, self.met = self.clean_pass, None, True
        if clean is None or not torch.equal(points, self.x):
            return self._pull(loss, direction)(points)
        rows = None if len(points) == len(clean.logits) else self._places
        return clean.gradient(rows, self.y, loss, self.aims, direction)

    def input_gradient(self, points: Tensor, loss: losses.Loss, direction: bool = True) -> Gradient:
        """Return loss, logits and gradient, as a model does, at points that are none for the best."""
        if self.met:
            return self._pull(loss, direction)(points)
        return self._first(loss, direction, points)

    @property
    def lean(self) -> bool:
        """Whether a step is passes and kernels alone, so that it may be replayed."""
        special = self.problem.mask, self.plan.gradient
        return special == (None, None) and self._bound("margin") is not None

    def loss_at(self, points: Tensor, loss: losses.Loss) -> tuple[Tensor, Tensor]:
        """Return loss and logits at points [n, ...] or [n, C, ...] that are no candidates for the best."""
        logits = self.logits(points)
        return loss_of(logits, self.y, loss, self.aims), logits

    def logits(self, points: Tensor) -> Tensor:
        """Return [n, K], or [n, C, K] of candidates [n, C, ...], in full batches."""
        rows = self.problem.rows
        if points.ndim == self.x.ndim:
            return self.classifier(points, rows)
        flat, rows = points.flatten(0, 1), repeated(rows, points.shape[1])
        step = max(1, CHUNK // max(1, flat[:1].numel()))
        parts = zip(torch.split(flat, step), torch.split(rows, step), strict=True)
        return torch.cat([self.classifier(*part) for part in parts]).view(*points.shape[:2], -1)
