"""The lean way of a search: a step is a forward pass, a backward pass and one kernel."""

from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.samples import Samples
from fastadv.engine.bound import Ask
from fastadv.ops._rows import PerRow, limits, per_row
from fastadv.ops._step import may_be_narrow
from fastadv.ops.logit_loss import ENTROPIES, KINDS
from fastadv.ops.registration.library import bind

Move = tuple[Any, ...]  # what `judge_` takes of a step: x, radius, step size, box, and what each row has
STAY: Move = None, 0.0, 0.0, 0.0, 0.0, None, None


class Loop:
    """Looks at points of the samples that are here, by kernels that are bound to their tensors."""

    # a broken row is left alone with `stop_early`, so that the result does not depend on when it leaves

    def __init__(self, search: Samples[Any], ask: Ask) -> None:
        """Bind the tensors of a search, of which no reference is kept: it holds the loop."""
        best, plan, x = search.best, search.plan, search.x
        self.aims = search.aims
        self._classifier, self._ask, self._loss = search.classifier, ask, plan.loss
        self._x, self._box = x, search.threat.box
        self._judge, self._rank_by = bind("judge_", x.device), bind("logit_loss", x.device)
        self._record = best.x_adv, best.rank, best.success, best.not_finite, best.largest_gradient, best.ranks
        sharp = plan.loss in ENTROPIES and search.targets is None
        self._rest = search.y, search.targets, sharp, plan.stop_early
        self._aimed = search.aims is not search.targets

    @staticmethod
    def of(search: Samples[Any]) -> "Loop | None":
        """Return the loop of the samples that are here; None where looking takes more than kernels."""
        loss = search.plan.loss
        if search.plan.minimum or callable(loss) or loss not in KINDS:
            return None
        ask = Loop.single(search, loss)
        return None if ask is None else Loop(search, ask)

    @staticmethod
    def single(search: Samples[Any], loss: str) -> Ask | None:
        """Return what gives the gradient of a loss; None where that takes more than a pass."""
        return Loop.bound(search, loss) if search.problem.criterion is WRONG else None

    @staticmethod
    def bound(search: Samples[Any], loss: str) -> Ask | None:
        """Return the same whatever the criterion: it shows whether steps may be replayed."""
        plan, problem, x = search.plan, search.problem, search.x
        usual = problem.mask is None and problem.bounded is None
        single = search.dtype == x.dtype == torch.float32 and getattr(problem.clean, "dtype", None) == x.dtype
        if not (usual and single and search.threshold is None and search.edge.depth is None):
            return None
        return None if plan.gradient is not None else search.classifier.bind(x, search.y, loss, search.aims)

    def move(self, radius: PerRow, step_size: PerRow) -> Move:
        """Return a step of `ops.linf_step` for `judge`."""
        radius, radii = per_row("radius", radius, self._x)
        step_size, steps = per_row("step_size", step_size, self._x)
        return self._x, radius, step_size, *limits(self._box), radii, steps

    def ask(self, points: Tensor, first: Ask | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, logits and gradient, or those of `first`, at points [n, ...]."""
        value, logits, gradient = (first or self._ask)(points)
        narrow = gradient.dtype == points.dtype or may_be_narrow(gradient, points)
        return value, logits, gradient if narrow else gradient.to(points.dtype)

    def judge(
        self, points: Tensor, value: Tensor, logits: Tensor, gradient: Tensor | None, move: Move = STAY
    ) -> Tensor:
        """Judge points by what was said of them; return bool [n], which are adversarial; then `move` them."""
        met, rank = torch.empty_like(self._record[2]), self._rank(value, logits)
        self._judge(*self._record, met, points, gradient, logits, rank, *self._rest, *move)
        return met

    def score(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss and logits at points [n, ...], which are judged, and which of them are adversarial."""
        logits = self._classifier(points)
        value = self._value(logits, self.aims)
        return value, logits, self.judge(points, value, logits, None)

    def _rank(self, value: Tensor, logits: Tensor) -> Tensor:
        """Return by what points compete: the loss towards the targets, wherever a search aims."""
        return self._value(logits, self._rest[1]) if self._aimed else value

    def _value(self, logits: Tensor, aims: Tensor | None) -> Tensor:
        value = torch.empty_like(self._record[1])
        self._rank_by(value, torch.empty_like(logits), logits, self._rest[0], self._loss, aims, True)
        return value
