"""What an answer is worth: judgment, mark of what is not finite, rank, best point, and the move.

A judge is chosen once for the samples that are in a search. A row whose logits are not finite is marked, and
its point wins nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastadv import losses
from fastadv._waiting import waits
from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.points import like
from fastadv.attacks.core.record import Plan, Record
from fastadv.attacks.core.task import Task
from fastadv.ops import largest
from fastadv.ops._rows import PerRow, limits, per_row
from fastadv.ops.keep_best import keep_best_
from fastadv.ops.keep_nearest import keep_nearest_
from fastadv.ops.logit_loss import ENTROPIES, KINDS
from fastadv.ops.registration.library import bind
from fastadv.threat import Linf

V = TypeVar("V", Tensor, Tensor | None)
Move = tuple[Any, ...]  # what `judge_` takes of a step: x, radius, step size, box, and what each row has
STAY: Move = None, 0.0, 0.0, 0.0, 0.0, None, None


class Answer(NamedTuple):
    """What the model says of points that it has seen, [n, ...] or [n, C, ...]."""

    seen: Tensor
    value: Tensor | None  # of the plan's loss
    logits: Tensor
    gradient: Tensor | None
    finite: Tensor | None  # bool [n] or [n, C], which logits are; None where all are


class Judgment(NamedTuple):
    """Which points are adversarial, bool [n] or [n, C]; of several decisions, how many have turned."""

    met: Tensor
    turned: Tensor | None = None
    distance: Tensor | None = None  # where points compete by it


@dataclass(eq=False)
class Judge:
    """Judges by any criterion points of `task`, which compete for the `best` as the `plan` says."""

    looks: ClassVar[bool] = False  # whether it sees for itself which logits are finite
    task: Task
    best: Record
    plan: Plan

    def __call__(self, answer: Answer) -> Judgment:
        """Judge points by an answer, and keep the best."""
        met, turned, _ = judgment = self.weigh(answer)
        if self.plan.minimum:
            order = self.task.threat.order
            return Judgment(met, turned, keep_nearest(self.best, self.task.x, answer.seen, met, order))
        strength = self.strength(answer.value, answer.logits, turned)
        if self.plan.last and answer.gradient is not None:
            self.best.pass_by(answer.seen, answer.finite, strength)
            return judgment
        if self.plan.stop_early:  # a broken row is left alone, so that nothing depends on when it leaves
            strength = torch.where(like(self.best.success, strength), torch.nan, strength)
        keep_strongest(self.best, answer.seen, met, strength, answer.finite)
        if answer.gradient is not None and answer.gradient.ndim == self.task.x.ndim:
            self.best.note_rank()
        return judgment

    def weigh(self, answer: Answer) -> Judgment:
        """Return the judgment of points that do not compete."""
        self.note(answer.gradient, answer.finite)
        shape, criterion = answer.logits.shape[:-1], self.task.criterion
        y, targets = self._labels(shape)
        flat, turned = answer.logits.flatten(0, -2), None
        if (decisions := criterion.decisions(flat, y, targets)) is None:
            met = criterion.met(flat, y, targets).view(shape)
        else:
            met, turned = (decisions[0] >= decisions[1]).view(shape), decisions[0].view(shape)
        if answer.finite is not None:
            met, turned = met & answer.finite, None if turned is None else turned * answer.finite
        return Judgment(met, turned)

    def note(self, gradient: Tensor | None, finite: Tensor | None) -> None:
        """Put on record how large a gradient is, and which rows have logits that are not finite."""
        if gradient is not None:
            functions = gradient if gradient.ndim == self.task.x.ndim else gradient.flatten(1, 2)
            size = largest(functions).to(self.best.largest_gradient.dtype)
            torch.maximum(self.best.largest_gradient, size, out=self.best.largest_gradient)
        if finite is not None:
            self.best.not_finite.logical_or_(~finite.view(len(finite), -1).all(1))

    def step(self, points: Tensor, answer: Answer, step_size: Any) -> Tensor:
        """Judge an answer, and return where a step of the threat along its gradient leads from points."""
        self(answer)
        assert answer.gradient is not None
        return self.task.threat.step_(points, self.best.usable(answer.gradient), self.task.x, step_size)

    def strength(self, value: Tensor | None, logits: Tensor, turned: Tensor | None) -> Tensor:
        """Return by what points compete with a budget, of the loss of the plan."""
        task, shape = self.task, logits.shape[:-1]
        if value is None:
            value = loss_of(logits, task.y, self.plan.loss, task.targets)
        y, targets = self._labels(shape)
        value = graded(value.flatten(), logits.flatten(0, -2), y, self.plan.loss, targets)
        return ranked(value.view(shape), turned)

    def _labels(self, shape: torch.Size) -> tuple[Tensor, Tensor | None]:
        """Return labels and targets of points of that shape [n] or [n, C]."""
        return repeated(self.task.y, *shape[1:]), repeated(self.task.targets, *shape[1:])


@dataclass(eq=False)
class Fused(Judge):
    """Judges one point a sample by one kernel: any wrong class, by a loss that it knows, in float32."""

    looks = True

    def __post_init__(self) -> None:
        best, task, plan = self.best, self.task, self.plan
        self._judge, self._loss = bind("judge_", task.x.device), bind("logit_loss", task.x.device)
        self._record = best.x_adv, best.rank, best.success, best.not_finite, best.largest_gradient, best.ranks
        sharp = plan.loss in ENTROPIES and task.targets is None
        self._rest = task.y, task.targets, sharp, plan.stop_early

    def __call__(self, answer: Answer) -> Judgment:
        seen, gradient = answer.seen, answer.gradient
        if seen.ndim > self.task.x.ndim or (gradient is not None and gradient.ndim > seen.ndim):
            return super().__call__(answer)
        seen = seen.contiguous() if 0 in seen.stride() else seen  # the kernel may write where it moves
        return self._judged(seen, answer, STAY)

    def step(self, points: Tensor, answer: Answer, step_size: PerRow) -> Tensor:
        task = self.task
        if type(task.threat) is not Linf:
            return super().step(points, answer, step_size)
        radius, radii = per_row("radius", task.threat.radius, task.x)
        size, sizes = per_row("step_size", step_size, task.x)
        self._judged(points, answer, (task.x, radius, size, *limits(task.threat.box), radii, sizes))
        return points

    def _judged(self, points: Tensor, answer: Answer, move: Move) -> Judgment:
        met, value, logits = torch.empty_like(self.best.success), answer.value, answer.logits
        if value is None:
            value, by_logits = torch.empty_like(self.best.rank), torch.empty_like(logits)
            self._loss(value, by_logits, logits, self.task.y, self.plan.loss, self.task.targets, True)
        self._judge(*self._record, met, points, answer.gradient, logits, value, *self._rest, *move)
        return Judgment(met)


def judge_for(task: Task, best: Record, plan: Plan) -> Judge:
    """Return what judges points of these samples."""
    by_loss = not (plan.minimum or plan.last) and plan.loss in KINDS
    fused = by_loss and task.single and task.criterion is WRONG
    return (Fused if fused else Judge)(task, best, plan)


# How points rank, and how the best is kept.


def repeated(values: V, count: int = 1) -> V:
    """Return each value `count` times in a row."""
    return values if values is None or count == 1 else values.repeat_interleave(count, 0)


def loss_of(logits: Tensor, y: Tensor, loss: losses.Loss, aims: Tensor | None) -> Tensor:
    """Return the loss [n] or [n, C] of logits [n, K] or [n, C, K]."""
    shape, logits = logits.shape[:-1], logits.flatten(0, -2)
    return losses.loss_value(logits, repeated(y, *shape[1:]), loss, repeated(aims, *shape[1:])).view(shape)


def graded(value: Tensor, logits: Tensor, y: Tensor, loss: losses.Loss, targets: Tensor | None) -> Tensor:
    """Return the loss [n] by which samples rank; the margin, < 0, where cross-entropy is exactly 0."""
    if loss not in ENTROPIES or targets is not None:
        return value
    if not waits(value.device) and bool((value > 0).all()):
        return value
    index = y[:, None]
    other = logits.scatter(1, index, -torch.inf).amax(1)
    return torch.where(value > 0, value, other - logits.gather(1, index).squeeze(1))


def ranked(value: Tensor, count: Tensor | None) -> Tensor:
    """Return by what points compete: how many decisions are as wanted, and the loss where that is equal."""
    return value if count is None else count + 0.5 + value.atan() / math.pi


def strongest(rank: Tensor, success: Tensor) -> Tensor:
    """Return int64 [n], which of C candidates is best: a success, then the highest `rank`; NaN never."""
    order = torch.where(rank.isnan() | (success.any(1, keepdim=True) & ~success), -torch.inf, rank)
    # a success of the lowest rank still comes before any failure
    order = torch.where(success, order.clamp_min(torch.finfo(order.dtype).min), order)
    return order.argmax(1)


def keep_nearest(best: Record, x: Tensor, points: Tensor, success: Tensor, order: float) -> Tensor:
    """Keep the success nearest to x [n, ...] in `best`; return the distances [n] or [n, C] of the points."""
    candidates, met = (points, success) if success.ndim == 2 else (points[:, None], success[:, None])
    return keep_nearest_((best.x_adv, best.rank, best.success), x, candidates, met, order).view(success.shape)


def keep_strongest(
    best: Record, points: Tensor, success: Tensor, rank: Tensor, finite: Tensor | None = None
) -> None:
    """Keep successes first, then the highest rank; never a failure of rank NaN or that is not `finite`."""
    rank = rank if finite is None else torch.where(finite, rank, torch.nan)
    rank = torch.where(success & rank.isnan(), -torch.inf, rank)
    if rank.ndim == 2:
        place = strongest(rank, success)
        row = torch.arange(len(place), device=place.device)
        points, success, rank = points[row, place], success[row, place], rank[row, place]
    keep_best_(best.x_adv, best.rank, best.success, points, rank.to(best.rank.dtype), success)
