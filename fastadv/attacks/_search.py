"""A search: how a rule evaluates points, and how they compete to be the best of their sample."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks._problem import Problem
from fastadv.attacks._ranking import graded, repeated, strongest
from fastadv.attacks._record import Record
from fastadv.attacks._samples import Samples
from fastadv.engine import Frozen
from fastadv.engine.snap import snap
from fastadv.ops import keep_best_, largest
from fastadv.ops._step import may_be_narrow
from fastadv.threat.base import SLACK

LONGEST_SEGMENT = 8
# values of x that pass the model at once where a rule asks for many candidates a sample
CHUNK = 1 << 22


@dataclass(eq=False)
class Look:
    """What the model says of points: x_adv [n, ...] or, with C candidates a sample, [n, C, ...].

    Rows are those of the samples still in the search.

    seen: what passed the model: x_adv, or what it is in the caller's half precision, in the dtype of x_adv.
    logits: [n, K] or [n, C, K].
    adversarial: bool [n] or [n, C]; the logits are finite and meet the criterion.
    loss: [n] or [n, C], where one was asked for.
    gradient: like x_adv, with zeros for elements that are not finite; [n, C, ...] of C directions.
    distance: [n] or [n, C] of x_adv from x, in an attack for the minimum.
    """

    x_adv: Tensor
    seen: Tensor
    logits: Tensor
    adversarial: Tensor
    loss: Tensor | None = None
    gradient: Tensor | None = None
    distance: Tensor | None = None

    def take(self, kept: Tensor) -> "Look":
        """The rows `kept` alone."""
        return Look(*(None if value is None else value[kept] for value in vars(self).values()))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Plan:
    """How to search: the rule, and the order of points.

    `minimum` ranks successes by their distance to x; otherwise successes come first, then the larger `loss`.
    With `stop_early` a sample leaves at its first success.
    """

    rule: "Rule"
    minimum: bool
    loss: losses.Loss
    restarts: int
    stop_early: bool
    seed: int


class Search(Samples):
    """One run of a rule over the samples `index` of a batch.

    A rule evaluates points with `gradient`, `decide` or `jacobian`, which take one point for each sample that
    is still here, keep the best and return a `Look`. Samples may leave at each such call, so tensors that a
    rule needs afterwards belong into `rows`; `x`, `y`, `threat`, `ids` and `best` follow by themselves. Where
    a rule sets `rows.aims` int64 [n], losses lead to these classes instead of the targets.

    Where the caller's x are in half precision, the model sees points that may become the best as that
    precision holds them, so that a success is one of the tensor returned.
    """

    def __init__(
        self, frozen: Frozen, problem: Problem, index: Tensor, record: Record, plan: Plan, restart: int
    ) -> None:
        super().__init__(problem, index, record)
        self.frozen, self.plan, self.restart = frozen, plan, restart
        self._evaluations = 0
        # whether a point has competed for the best
        self._competed = False

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

    def offer(self, points: Tensor, success: Tensor) -> None:
        """Points [n, ...] whose verdict is known, success bool [n]; those outside the threat are none.

        Their loss is not known: to a budget attack they are the weakest of successes.
        """
        self._competed = True
        points = points.to(self.x.dtype)
        best, distance = self.best, self.distance(points)
        success = success & (distance <= self._radius(distance))
        rank = torch.where(success, -distance if self.plan.minimum else -torch.inf, torch.nan)
        keep_best_(best.x_adv, best.rank, best.success, points, rank.to(best.rank.dtype), success)

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

    def copies(self, count: int) -> tuple["Search", Record]:
        """A search of `count` copies of each sample, all samples in turn, and the record that it writes."""
        index = torch.arange(len(self.x), device=self.x.device).repeat(count)
        problem, record = self.problem.take(index), self.best.take(index)
        everyone = torch.arange(len(index), device=index.device)
        copies = Search(self.frozen, problem, everyone, record, self.plan, self.restart)
        copies.dtype, copies.given = self.dtype, self.given[index]
        return copies, record

    def take_over(self, found: Record) -> None:
        """Let what a search of copies knows of these samples compete; those broken already keep theirs."""
        self._competed = True
        best = self.best
        still = ~best.success if self.plan.stop_early else torch.ones_like(best.success)
        best.refuted |= found.refuted & still
        best.not_finite |= found.not_finite & still
        size = torch.maximum(best.largest_gradient, found.largest_gradient)
        best.largest_gradient = torch.where(still, size, best.largest_gradient)
        rank = torch.where(still, found.rank, torch.nan)
        keep_best_(best.x_adv, best.rank, best.success, found.x_adv, rank, found.success & still)

    def _usable(self, gradient: Tensor) -> Tensor:
        """`gradient` with zeros for what is not finite or may not move; its size goes on record."""
        mask = self.problem.mask
        if mask is not None:  # before its size is taken: what happens outside the mask is of no interest
            gradient = gradient.where(mask if gradient.ndim == self.x.ndim else mask.unsqueeze(1), 0.0)
        given = gradient if gradient.ndim == self.x.ndim else gradient.flatten(1, 2)
        size = largest(given).to(self.best.largest_gradient.dtype)
        torch.maximum(self.best.largest_gradient, size, out=self.best.largest_gradient)
        if not _within(size):
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        return gradient

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

    def _seen(self, points: Tensor, judge: bool) -> tuple[Tensor, Tensor]:
        """The points that have `departed`, and what the model is to see of them: `rounded` candidates."""
        points = self.departed(points)
        return points, self.rounded(points) if judge else points

    def _cast(self, points: Tensor) -> Tensor:
        """The points in the dtype of the caller's x where the model, whose own is not known, may need it."""
        return points if self.frozen.dtype else points.to(self.dtype)

    def _judged(self, look: Look, loss: losses.Loss | None, judge: bool) -> Look:
        """`look` with the verdict; the points seen compete for the best where `judge` says so."""
        shape, logits = look.logits.shape[:-1], look.logits.flatten(0, -2)
        y, targets = repeated(self.y, *shape[1:]), repeated(self.targets, *shape[1:])
        look.adversarial = self.problem.criterion.met(logits, y, targets).view(shape)
        size = largest(logits)
        finite = None if _within(size) else (size < torch.inf).view(shape)
        if finite is not None:
            look.adversarial &= finite
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
            success = success & (distance <= self._radius(distance))
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
        """[n] in the order of the plan's loss, which `look` was taken with."""
        assert look.loss is not None
        return graded(look.loss, look.logits, self.y, self.plan.loss, self.aims)

    def _strength(self, look: Look, loss: losses.Loss | None) -> Tensor:
        """[n] or [n, C] in the order of the plan's loss, whatever `loss` the look was taken with."""
        shape, logits, value = look.logits.shape[:-1], look.logits.flatten(0, -2), look.loss
        y, targets = repeated(self.y, *shape[1:]), repeated(self.targets, *shape[1:])
        if value is None or loss != self.plan.loss or self.aims is not self.targets:
            value = losses.loss_value(logits, y, self.plan.loss, targets)
        return graded(value.flatten(), logits, y, self.plan.loss, targets).view(shape)

    def _radius(self, distance: Tensor) -> Tensor | float:
        """The largest distance within the threat; half its slack is left to the rounding of distances."""
        radius = self.threat.radius
        if isinstance(radius, Tensor) and radius.ndim:
            radius = radius.to(distance.dtype).view(-1, *[1] * (distance.ndim - 1))
        return radius * (1 + SLACK / 2)

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


Rule = Callable[[Search], None]


def _within(sizes: Tensor) -> bool:
    """Whether all sizes [n] are known to be finite, on a CPU: to read them would wait for a GPU."""
    return sizes.device.type == "cpu" and (not len(sizes) or sizes.max().item() < torch.inf)


def settles(look: int, device: torch.device) -> bool:
    """Whether samples leave after evaluation number `look`.

    On a GPU that waits for the device, so it is done after 1, 2, 4, 8, 16, 24, 32 ... evaluations alone.
    """
    done = look + 1
    return device.type == "cpu" or done % LONGEST_SEGMENT == 0 or done & (done - 1) == 0
