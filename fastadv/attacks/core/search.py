"""A search: how a rule evaluates points."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks.core.contest import Contest, Order
from fastadv.attacks.core.look import Look
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.core.ranking import repeated
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.waiting import within
from fastadv.engine import Frozen
from fastadv.ops import largest
from fastadv.ops._step import may_be_narrow

# values of x that pass the model at once where a rule asks for many candidates a sample
CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Plan(Order):
    """How to search: the rule, how often and from which random points, and the order of points."""

    rule: "Rule"
    restarts: int
    seed: int


class Search(Contest):
    """One run of a rule over the samples `index` of a batch.

    A rule evaluates points with `gradient`, `decide` or `jacobian`, which take one point for each sample that
    is still here, keep the best and return a `Look`. Samples may leave at each such call, so tensors that a
    rule needs afterwards belong into `rows`; `x`, `y`, `threat`, `ids` and `best` follow by themselves. Where
    a rule sets `rows.aims` int64 [n], losses lead to these classes instead of the targets.

    Where the caller's x are in half precision, the model sees points that may become the best as that
    precision holds them.
    """

    plan: Plan

    def __init__(
        self, frozen: Frozen, problem: Problem, index: Tensor, record: Record, plan: Plan, restart: int
    ) -> None:
        super().__init__(frozen, problem, index, record, plan)
        self.restart = restart

    @property
    def seed(self) -> int:
        """The caller's seed; pass it through `rng.derive` with the attack's name and `restart`."""
        return self.plan.seed

    def start(self, random_start: bool = False) -> Tensor:
        """[n, ...] x itself, or random draw number `restart` of the threat: always one after a restart."""
        if not (random_start or self.restart):
            return self.x.clone()
        points = self.threat.random_start(self.x, self.seed, self.ids, draw=self.restart)
        return self.frozen.layout(self.problem.masked(points))

    def gradient(
        self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True, narrow: bool = False
    ) -> Look:
        """Loss, logits and input gradient at points [n, ...]; `loss` defaults to that of the plan.

        The gradient is right up to a positive factor for each sample where the loss is "ce". With
        `judge=False` the points are no candidates for the best. `narrow` leaves the gradient in bfloat16
        where the search is, for a step of the threat.
        """
        points, seen = self._seen(points, judge)
        loss = self.plan.loss if loss is None else loss
        value, logits, gradient = self.frozen.input_gradient(self._cast(seen), self.y, loss, self.aims, True)
        if not (narrow and may_be_narrow(gradient, self.x)):
            gradient = gradient.to(self.x.dtype)
        gradient = self._usable(gradient)
        return self._judged(Look(points, seen, logits, logits, value, gradient), loss, judge)

    def jacobian(
        self, points: Tensor, directions: Tensor | Callable[[Tensor], Tensor], judge: bool = True
    ) -> Look:
        """Logits at points [n, ...], and the gradients of <direction, logits> for directions [n, C, K], or a
        function that makes them of the logits [n, K].
        """
        points, seen = self._seen(points, judge)
        logits, gradient = self.frozen.jacobian(self._cast(seen), directions)
        gradient = self._usable(gradient.to(self.x.dtype))
        return self._judged(Look(points, seen, logits, logits, None, gradient), None, judge)

    def decide(self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True) -> Look:
        """Logits, and the loss if one is named, at points [n, ...], or at C candidates a sample [n, C, ...].

        Candidates pass the model in full batches.
        """
        points, seen = self._seen(points, judge)
        if points.ndim == self.x.ndim:
            logits = self.frozen(self._cast(seen))
            value = None if loss is None else losses.loss_value(logits, self.y, loss, self.aims)
            return self._judged(Look(points, seen, logits, logits, value), loss, judge)
        count = points.shape[1]
        flat = self._cast(seen).flatten(0, 1)
        step = max(1, CHUNK // max(1, flat[:1].numel()))
        logits = torch.cat([self.frozen(part) for part in torch.split(flat, step)])
        y, targets = repeated(self.y, count), repeated(self.aims, count)
        value = None if loss is None else losses.loss_value(logits, y, loss, targets).view(-1, count)
        logits = logits.view(len(points), count, -1)
        return self._judged(Look(points, seen, logits, logits, value), loss, judge)

    def judge(self, points: Tensor, logits: Tensor) -> Look:
        """The verdict by logits [n, K] that a rule took itself, at points that have `departed` and are
        `rounded`.
        """
        return self._judged(Look(points, points, logits, logits), None, True)

    def last(self, points: Tensor, loss: losses.Loss | None = None) -> None:
        """The last points of the rule. They are not passed where nothing competes with them."""
        if self._competed or self.plan.restarts > 1:
            self.decide(points, self.plan.loss if loss is None and not self.plan.minimum else loss)
        else:
            self.best.x_adv.copy_(self._candidate(self.rounded(self.departed(points))))

    def copies(self, count: int) -> tuple["Search", Record]:
        """A search of `count` copies of each sample, all samples in turn, and the record that it writes."""
        index = torch.arange(len(self.x), device=self.x.device).repeat(count)
        problem, record = self.problem.take(index), self.best.take(index)
        everyone = torch.arange(len(index), device=index.device)
        copies = Search(self.frozen, problem, everyone, record, self.plan, self.restart)
        copies.dtype, copies.given = self.dtype, self.given[index]
        return copies, record

    def _usable(self, gradient: Tensor) -> Tensor:
        """`gradient` with zeros for what is not finite or may not move; its size goes on record."""
        mask = self.problem.mask
        if mask is not None:  # before its size is taken: what happens outside the mask is of no interest
            gradient = gradient.where(mask if gradient.ndim == self.x.ndim else mask.unsqueeze(1), 0.0)
        given = gradient if gradient.ndim == self.x.ndim else gradient.flatten(1, 2)
        size = largest(given).to(self.best.largest_gradient.dtype)
        torch.maximum(self.best.largest_gradient, size, out=self.best.largest_gradient)
        if not within(size):
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        return gradient

    def _seen(self, points: Tensor, judge: bool) -> tuple[Tensor, Tensor]:
        """The points that have `departed`, and what the model is to see of them: `rounded` candidates."""
        points = self.departed(points)
        return points, self.rounded(points) if judge else points


Rule = Callable[[Search], None]
