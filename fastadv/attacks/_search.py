"""A search: the samples still under attack, how a rule evaluates points, and each sample's best so far."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks._problem import Problem, StepSize
from fastadv.attacks._record import Record, Rows
from fastadv.engine import Frozen
from fastadv.ops import keep_best_
from fastadv.threat import Threat
from fastadv.threat.base import SLACK

LONGEST_SEGMENT = 8
# values of x that pass the model at once where a rule asks for many candidates a sample
CHUNK = 1 << 22


class Over(Exception):
    """Every sample has left the search."""


@dataclass(eq=False)
class Look:
    """What the model says of points: x_adv [n, ...] or, with C candidates a sample, [n, C, ...].

    logits [n, K] or [n, C, K]; adversarial bool [n] or [n, C], whether they are finite and meet the
    criterion; loss [n] or [n, C], where one was asked for; gradient like x_adv, with zeros for elements that
    are not finite, or [n, C, ...] of the C directions asked for. Rows are those of the samples still in the
    search.
    """

    x_adv: Tensor
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


class Search:
    """One run of a rule over the samples `index` of a batch.

    A rule evaluates points with `gradient`, `decide` or `jacobian`, which take one point for each sample that
    is still here, keep the best and return a `Look`. Samples may leave at each such call, so tensors that a
    rule needs afterwards belong into `rows`; `x`, `y`, `threat`, `ids` and `best` follow by themselves. Where
    a rule sets `rows.aims` int64 [n], losses lead to these classes instead of the targets.
    """

    def __init__(
        self, frozen: Frozen, problem: Problem, index: Tensor, record: Record, plan: Plan, restart: int
    ) -> None:
        whole = len(index) == len(problem.x)
        self.frozen, self.plan, self.restart = frozen, plan, restart
        self.problem = problem if whole else problem.take(index)
        self.best = record.take(index)
        self.rows = Rows()
        self._record, self._index = record, index
        self._evaluations = 0
        # whether a point has competed for the best
        self._competed = False
        self._leaving: Tensor | None = None

    @property
    def x(self) -> Tensor:
        """[n, ...] the clean samples."""
        return self.problem.x

    @property
    def y(self) -> Tensor:
        """int64 [n], labels."""
        return self.problem.y

    @property
    def targets(self) -> Tensor | None:
        """int64 [n], wanted classes, or None."""
        return self.problem.targets

    @property
    def aims(self) -> Tensor | None:
        """int64 [n], the classes to which losses lead; None where they lead away from y."""
        aims: Tensor | None = vars(self.rows).get("aims", self.targets)
        return aims

    @property
    def threat(self) -> Threat:
        """The threat, with the radii of these samples."""
        return self.problem.threat

    @property
    def ids(self) -> Tensor:
        """int64 [n], sample numbers; random draws depend on them."""
        return self.problem.ids

    @property
    def seed(self) -> int:
        """The caller's seed; pass it through `rng.derive` with the attack's name and `restart`."""
        return self.plan.seed

    @overload
    def per_sample(self, value: Tensor) -> Tensor: ...
    @overload
    def per_sample(self, value: StepSize) -> StepSize: ...
    def per_sample(self, value: StepSize) -> StepSize:
        """The rows of these samples, where the caller gave one value for each sample of the batch."""
        return value[self._index] if isinstance(value, Tensor) else value

    def start(self, random_start: bool = False) -> Tensor:
        """[n, ...] x itself, or random draw number `restart` of the threat: always one after a restart."""
        if not (random_start or self.restart):
            return self.x.clone()
        points = self.threat.random_start(self.x, self.seed, self.ids, draw=self.restart)
        return self.frozen.layout(self.problem.masked(points))

    def gradient(self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True) -> Look:
        """Loss, logits and input gradient at points [n, ...]; `loss` defaults to that of the plan.

        The gradient is right up to a positive factor for each sample where the loss is "ce". With
        `judge=False` the points are no candidates for the best.
        """
        points = self.departed(points)
        loss = self.plan.loss if loss is None else loss
        value, logits, gradient = self.frozen.input_gradient(points, self.y, loss, self.aims, True)
        gradient = self._usable(gradient)
        return self._judged(Look(points, logits, logits, value, gradient), loss, judge)

    def jacobian(
        self, points: Tensor, directions: Tensor | Callable[[Tensor], Tensor], judge: bool = True
    ) -> Look:
        """Logits at points [n, ...], and the gradients of <direction, logits> for directions [n, C, K], or a
        function that makes them of the logits [n, K].
        """
        points = self.departed(points)
        logits, gradient = self.frozen.jacobian(points, directions)
        return self._judged(Look(points, logits, logits, None, self._usable(gradient)), None, judge)

    def decide(self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True) -> Look:
        """Logits, and the loss if one is named, at points [n, ...], or at C candidates a sample [n, C, ...].

        Candidates pass the model in full batches.
        """
        points = self.departed(points)
        if points.ndim == self.x.ndim:
            logits = self.frozen(points)
            value = None if loss is None else losses.loss_value(logits, self.y, loss, self.aims)
            return self._judged(Look(points, logits, logits, value), loss, judge)
        count = points.shape[1]
        flat = points.flatten(0, 1)
        step = max(1, CHUNK // max(1, flat[:1].numel()))
        logits = torch.cat([self.frozen(part) for part in torch.split(flat, step)])
        y, targets = _repeated(self.y, count), _repeated(self.aims, count)
        value = None if loss is None else losses.loss_value(logits, y, loss, targets).view(-1, count)
        return self._judged(Look(points, logits.view(len(points), count, -1), logits, value), loss, judge)

    def judge(self, points: Tensor, logits: Tensor) -> Look:
        """The verdict by logits [n, K] that a rule took itself, of points that have `departed`."""
        return self._judged(Look(points, logits, logits), None, True)

    def last(self, points: Tensor, loss: losses.Loss | None = None) -> None:
        """The last points of the rule. They are not passed where nothing competes with them."""
        if self._competed or self.plan.restarts > 1:
            self.decide(points, self.plan.loss if loss is None and not self.plan.minimum else loss)
        else:
            self.best.x_adv.copy_(self._candidate(self.departed(points)))

    def offer(self, points: Tensor, success: Tensor) -> None:
        """Points [n, ...] whose verdict is known, success bool [n]; those outside the threat are none.

        Their loss is not known: to a budget attack they are the weakest of successes.
        """
        self._competed = True
        best, distance = self.best, self.distance(points)
        success = success & (distance <= self._radius(distance))
        rank = torch.where(success, -distance if self.plan.minimum else -torch.inf, torch.nan)
        keep_best_(best.x_adv, best.rank, best.success, points, rank.to(best.rank.dtype), success)

    def leave(self, done: Tensor) -> None:
        """Drop the samples `done` bool [n] from points and rows at the next call."""
        self._leaving = done if self._leaving is None else self._leaving | done

    def distance(self, points: Tensor) -> Tensor:
        """[n] or [n, C]: the distance of points to x in the threat's norm, at least in float32."""
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        if points.ndim == self.x.ndim:
            return norm(points - self.x, self.threat.order)
        away = points - self.x.unsqueeze(1)
        return norm(away.flatten(0, 1), self.threat.order).view(points.shape[:2])

    def close(self) -> None:
        """Prove the successes of those still here, and write all to the record."""
        if self.plan.stop_early:
            self._prove()
        self._record.put(self._index, self.best)

    def _usable(self, gradient: Tensor) -> Tensor:
        """`gradient` with zeros for what is not finite or may not move; its size goes on record."""
        mask = self.problem.mask
        if mask is not None:  # before its size is taken: what happens outside the mask is of no interest
            gradient = gradient.where(mask if gradient.ndim == self.x.ndim else mask.unsqueeze(1), 0.0)
        given = gradient if gradient.ndim == self.x.ndim else gradient.flatten(1, 2)
        size = largest(given).flatten()
        torch.maximum(self.best.largest_gradient, size, out=self.best.largest_gradient)
        if gradient.device.type != "cpu" or not bool(size.isfinite().all()):
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        return gradient

    def departed(self, points: Tensor) -> Tensor:
        """The points of the samples that stay, once those that left are gone, with x outside the mask.

        The evaluations do this by themselves; a rule that asks the model in its own way calls it first.
        """
        leaving = self._leaving
        if leaving is not None and settles(self._evaluations, points.device):
            self._leaving = None
            if bool(leaving.any()):
                if self.plan.stop_early:
                    self._prove()
                points = points[self._drop(leaving)]
        if self.problem.mask is None:
            return points
        mask, x = self.problem.mask, self.x
        if points.ndim > x.ndim:
            mask, x = mask.unsqueeze(1), x.unsqueeze(1)
        return torch.where(mask, points, x)

    def _drop(self, left: Tensor) -> Tensor:
        """Write the samples `left` bool [n] to the record; return those kept. Raises Over if none is."""
        self._record.put(self._index[left], self.best.take(left))
        kept = ~left
        self._index = self._index[kept]
        if not len(self._index):
            raise Over
        self.problem, self.best = self.problem.take(kept), self.best.take(kept)
        self.rows.take(kept)
        if self._leaving is not None:
            self._leaving = self._leaving[kept]
        return kept

    def _judged(self, look: Look, loss: losses.Loss | None, judge: bool) -> Look:
        """`look` with the verdict; the best points take part in it where `judge` says so."""
        now, best = self.problem, self.best
        many = look.logits.ndim == 3
        if many:
            count = look.logits.shape[1]
            finite = look.logits.isfinite().all(2)
            y, targets = _repeated(now.y, count), _repeated(now.targets, count)
            decided = now.criterion.met(look.logits.flatten(0, 1), y, targets)
            look.adversarial = decided.view(-1, count) & finite
            best.not_finite.logical_or_(~finite.all(1))
        else:
            finite = look.logits.isfinite().all(1)
            look.adversarial = now.decided(look.logits) & finite
            best.not_finite.logical_or_(~finite)
        if judge:
            self._keep(look, loss, finite, many)
        self._evaluations += 1
        if judge and self.plan.stop_early and settles(self._evaluations - 1, now.x.device):
            broken = self._prove()
            if bool(broken.any()):
                look = look.take(self._drop(broken))
        return look

    def _keep(self, look: Look, loss: losses.Loss | None, finite: Tensor, many: bool) -> None:
        """Let the points of `look` compete for the best; no failure whose loss is NaN does."""
        self._competed = True
        candidate, success = self._candidate(look.x_adv, look.logits.dtype), look.adversarial
        if self.plan.minimum:
            look.distance = distance = self.distance(candidate)
            success = success & (distance <= self._radius(distance))
            rank = torch.where(success, -distance, torch.nan)
        else:
            rank = self._strength(look, loss)
            rank = torch.where(success & rank.isnan(), -torch.inf, torch.where(finite, rank, torch.nan))
        if many:
            order = torch.where(rank.isnan() | (success.any(1, keepdim=True) & ~success), -torch.inf, rank)
            # a success of the lowest rank still comes before any failure
            order = torch.where(success, order.clamp_min(torch.finfo(order.dtype).min), order)
            place = order.argmax(1)
            row = torch.arange(len(place), device=place.device)
            candidate, success, rank = candidate[row, place], success[row, place], rank[row, place]
        best = self.best
        keep_best_(best.x_adv, best.rank, best.success, candidate, rank.to(best.rank.dtype), success)

    def rank(self, look: Look) -> Tensor:
        """[n] in the order of the plan's loss, which `look` was taken with."""
        assert look.loss is not None
        return _graded(look.loss, look.logits, self.y, self.plan.loss, self.aims)

    def _strength(self, look: Look, loss: losses.Loss | None) -> Tensor:
        """[n] or [n, C] in the order of the plan's loss, whatever `loss` the look was taken with."""
        shape, logits = look.logits.shape[:-1], look.logits.flatten(0, -2)
        count = shape[1] if len(shape) > 1 else 1
        y, targets, value = _repeated(self.y, count), _repeated(self.targets, count), look.loss
        if value is None or loss != self.plan.loss or self.aims is not self.targets:
            value = losses.loss_value(logits, y, self.plan.loss, targets)
        return _graded(value.flatten(), logits, y, self.plan.loss, targets).view(shape)

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
        x = self.x if points.ndim == self.x.ndim else self.x.unsqueeze(1)
        return snap(x, points, threshold, (x.dtype, self.frozen.dtype or dtype, dtype))

    def _prove(self) -> Tensor:
        """bool [n]: the successes that the model as given confirms. The others become `refuted`."""
        best = self.best
        if self.frozen.exact or not bool(best.success.any()):
            return best.success
        index = best.success.nonzero().squeeze(1)
        confirmed = self.problem.take(index).met(self.frozen.verdict(best.x_adv[index]))
        best.success[index] = confirmed
        best.refuted[index] |= ~confirmed
        return best.success


Rule = Callable[[Search], None]


@overload
def _repeated(values: Tensor, count: int) -> Tensor: ...
@overload
def _repeated(values: None, count: int) -> None: ...
def _repeated(values: Tensor | None, count: int) -> Tensor | None:
    """Each value `count` times in a row."""
    return values if values is None or count == 1 else values.repeat_interleave(count)


def _graded(value: Tensor, logits: Tensor, y: Tensor, loss: losses.Loss, targets: Tensor | None) -> Tensor:
    """The loss `value` [n]; where cross-entropy is exactly 0, as for very confident samples, the margin.

    That is < 0.
    """
    if loss != "ce" or targets is not None:
        return value
    index = y[:, None]
    other = logits.scatter(1, index, -torch.inf).amax(1)
    return torch.where(value > 0, value, other - logits.gather(1, index).squeeze(1))


def norm(away: Tensor, order: float) -> Tensor:
    """[n] the norm of each row of away [n, ...]."""
    if order == 0:
        return (away != 0).flatten(1).sum(1).to(away.dtype)
    length: Tensor = torch.linalg.vector_norm(away.flatten(1), order, dim=1)
    return length


def largest(gradient: Tensor) -> Tensor:
    """[n, 1, ...] the largest absolute element of each sample; NaN where one is.

    Two reductions are faster than one of the absolute values, which would first have to be stored.
    """
    dims = tuple(range(1, gradient.ndim))
    return torch.maximum(gradient.amax(dims, keepdim=True), -gradient.amin(dims, keepdim=True))


def settles(look: int, device: torch.device) -> bool:
    """Whether samples leave after evaluation number `look`.

    On a GPU that waits for the device, so it is done after 1, 2, 4, 8, 16, 24, 32 ... evaluations alone.
    """
    done = look + 1
    return device.type == "cpu" or done % LONGEST_SEGMENT == 0 or done & (done - 1) == 0


def snap(x: Tensor, x_adv: Tensor, threshold: float, dtypes: Iterable[torch.dtype]) -> Tensor:
    """The nearest points to x whose coordinates lie on the same sides of the threshold as those of x_adv.

    The two sides differ in the coarsest of the dtypes that x passes through.
    """
    coarse = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    edge = torch.tensor(threshold, dtype=coarse, device=x.device)
    above = x_adv.to(coarse) >= edge
    nearest = torch.where(above, edge, edge.nextafter(torch.full_like(edge, -torch.inf))).to(x.dtype)
    return torch.where((x.to(coarse) >= edge) == above, x, nearest)
