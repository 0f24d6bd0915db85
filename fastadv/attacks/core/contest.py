"""How points compete to be the best of their sample, and when a sample leaves."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks.core.look import Look
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.core.ranking import graded, repeated, strongest
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.samples import Samples
from fastadv.attacks.core.snap import snap
from fastadv.attacks.core.waiting import settles, within
from fastadv.engine import Frozen
from fastadv.ops import keep_best_, largest


@dataclass(frozen=True, eq=False)
class Order:
    """Which point of a sample is the best.

    `minimum` ranks successes by their distance to x; otherwise successes come first, then the larger `loss`.
    With `stop_early` a sample leaves at its first success.
    """

    minimum: bool
    loss: losses.Loss
    stop_early: bool


class Contest(Samples):
    """The samples still under attack, and the points of each that compete in an order to be its best.

    Where the caller's x are in half precision, points compete as that precision holds them, so that a success
    is one of the tensor returned.
    """

    def __init__(self, frozen: Frozen, problem: Problem, index: Tensor, record: Record, plan: Order) -> None:
        super().__init__(problem, index, record)
        self.frozen, self.plan = frozen, plan
        self._evaluations = 0
        # whether a point has competed for the best
        self._competed = False

    def offer(self, points: Tensor, success: Tensor) -> None:
        """Points [n, ...] whose verdict is known, success bool [n]; those outside the threat are none.

        Their loss is not known: to a budget attack they are the weakest of successes.
        """
        self._competed = True
        points = points.to(self.x.dtype)
        best, distance = self.best, self.distance(points)
        success = success & self.threat.contains(points, self.x)
        rank = torch.where(success, -distance if self.plan.minimum else -torch.inf, torch.nan)
        keep_best_(best.x_adv, best.rank, best.success, points, rank.to(best.rank.dtype), success)

    def take_over(self, found: Record) -> None:
        """Let what a search of copies knows of these samples compete; those broken already keep theirs."""
        self._competed = True
        best = self.best
        still = ~best.success if self.plan.stop_early else torch.ones_like(best.success)
        best.refuted |= found.refuted & still
        best.not_finite |= found.not_finite & still
        size = torch.maximum(best.largest_gradient, found.largest_gradient)
        best.largest_gradient = torch.where(still, size, best.largest_gradient)
        # a failure never takes the place of a success
        keep_best_(best.x_adv, best.rank, best.success, found.x_adv, found.rank, found.success & still)

    def close(self) -> None:
        """Prove the successes of those still here, and write all to the record."""
        if self.plan.stop_early:
            self._prove()
        self.write()

    def settle(self) -> None:
        """Let the samples leave that are broken, in an attack with `stop_early`; Over if all are."""
        if self.plan.stop_early:
            broken = self._prove()
            if bool(broken.any()):
                self.drop(broken)

    def ahead(self, most: int) -> int:
        """How many evaluations, at most `most`, there are up to the next at which samples may leave."""
        if not self.plan.stop_early:
            return most
        ends = (n for n in range(1, most) if settles(self._evaluations + n - 1, self.x.device))
        return next(ends, most)

    def passed(self, evaluations: int) -> None:
        """So many evaluations, as `ahead` allows, were made elsewhere; their points have competed."""
        self._competed = True
        self._evaluations += evaluations
        if settles(self._evaluations - 1, self.x.device):
            self.settle()

    def departed(self, points: Tensor) -> Tensor:
        """The points of the samples that stay, once those that left are gone, with x outside the mask.

        The evaluations do this by themselves; a rule that asks the model in its own way calls it first.
        """
        leaving = self.leaving
        if leaving is not None and settles(self._evaluations, points.device):
            self.leaving = None
            if bool(leaving.any()):
                if self.plan.stop_early:
                    self._prove()
                points = points[self.drop(leaving)]
        return self.problem.masked(points)

    def _judged(self, look: Look, loss: losses.Loss | None, judge: bool) -> Look:
        """`look` with the verdict; the points seen compete for the best where `judge` says so."""
        shape, logits = look.logits.shape[:-1], look.logits.flatten(0, -2)
        y, targets = repeated(self.y, *shape[1:]), repeated(self.targets, *shape[1:])
        look.adversarial = self.problem.criterion.met(logits, y, targets).view(shape)
        size = largest(logits)
        finite = None if within(size) else (size < torch.inf).view(shape)
        if finite is not None:
            look.adversarial = look.adversarial & finite
            self.best.not_finite.logical_or_(~(finite if finite.ndim == 1 else finite.all(1)))
        if judge:
            self._keep(look, loss, finite)
        self._evaluations += 1
        if judge and self.plan.stop_early and settles(self._evaluations - 1, self.x.device):
            broken = self._prove()
            if bool(broken.any()):
                look = look.take(self.drop(broken))
        return look

    def _keep(self, look: Look, loss: losses.Loss | None, finite: Tensor | None) -> None:
        """Let the points seen compete for the best; no failure whose loss is NaN does.

        `finite`, like the verdict, says whose logits are; None for all.
        """
        self._competed = True
        candidate, success = self._candidate(look.seen, look.logits.dtype), look.adversarial
        if self.plan.minimum:
            distance = self.distance(candidate)
            look.distance = distance if candidate is look.x_adv else self.distance(look.x_adv)
            success = success & (distance < torch.inf)
            rank = torch.where(success, -distance, torch.nan)
        else:
            rank = self._strength(look, loss)
            rank = rank if finite is None else torch.where(finite, rank, torch.nan)
            rank = torch.where(success & rank.isnan(), -torch.inf, rank)
        if rank.ndim == 2:
            place = strongest(rank, success)
            row = torch.arange(len(place), device=place.device)
            candidate, success, rank = candidate[row, place], success[row, place], rank[row, place]
        best = self.best
        keep_best_(best.x_adv, best.rank, best.success, candidate, rank.to(best.rank.dtype), success)

    def rank(self, look: Look) -> Tensor:
        """[n] by the loss of the order, which `look` was taken with."""
        assert look.loss is not None
        return graded(look.loss, look.logits, self.y, self.plan.loss, self.aims)

    def _strength(self, look: Look, loss: losses.Loss | None) -> Tensor:
        """[n] or [n, C] by the loss of the order, whatever `loss` the look was taken with."""
        shape, logits, value = look.logits.shape[:-1], look.logits.flatten(0, -2), look.loss
        y, targets = repeated(self.y, *shape[1:]), repeated(self.targets, *shape[1:])
        if value is None or loss != self.plan.loss or self.aims is not self.targets:
            value = losses.loss_value(logits, y, self.plan.loss, targets)
        return graded(value.flatten(), logits, y, self.plan.loss, targets).view(shape)

    def _candidate(self, points: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The points; those nearest to x that look the same to a model that binarises its input."""
        threshold = self.frozen.input_threshold
        if threshold is None:
            return points
        x = (self.x if points.ndim == self.x.ndim else self.x.unsqueeze(1)).to(self.dtype)
        return snap(x, points, threshold, self.frozen.dtype or self.dtype, dtype).to(points.dtype)

    def _prove(self) -> Tensor:
        """bool [n]: the successes that the model as given confirms. The others become `refuted`."""
        best = self.best
        if self.frozen.exact or not bool(best.success.any()):
            return best.success
        index = best.success.nonzero().squeeze(1)
        logits = self.frozen.verdict(self._cast(best.x_adv[index]))
        confirmed = self.problem.take(index).met(logits)
        best.success[index] = confirmed
        best.refuted[index] |= ~confirmed
        return best.success

    def _cast(self, points: Tensor) -> Tensor:
        """The points in the dtype of the caller's x where the model, whose own is not known, may need it."""
        return points if self.frozen.dtype else points.to(self.dtype)
