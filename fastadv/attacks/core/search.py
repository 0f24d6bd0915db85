"""A search: the samples still under attack, how a rule evaluates points of theirs, and which is the best."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from fastadv import losses, ops, rng
from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.look import GradientLook, JacobianLook, Look, ScoredLook
from fastadv.attacks.core.problem import Problem, StepSize
from fastadv.attacks.core.ranking import graded, repeated, strongest
from fastadv.attacks.core.record import Climb, Record, Rows
from fastadv.attacks.core.snap import snap
from fastadv.attacks.core.waiting import may_leave, surely_finite
from fastadv.engine import Frozen
from fastadv.ops import largest
from fastadv.ops._step import may_be_narrow
from fastadv.ops.climb import climb_
from fastadv.ops.keep_best import keep_best_
from fastadv.ops.keep_nearest import keep_nearest_
from fastadv.ops.logit_loss import KINDS
from fastadv.threat import Threat

R_co = TypeVar("R_co", bound=Rows, default=Any, covariant=True)
L = TypeVar("L", bound=Look)
V = TypeVar("V", Tensor, StepSize)

# values of x that pass the model at once where a rule asks for many candidates a sample
CHUNK = 1 << 22


class Over(Exception):
    """Every sample has left the search."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How to search, and which point of a sample is the best.

    minimum: successes rank by their distance to x; otherwise successes come first, then the larger `loss`.
    stop_early: a sample leaves at its first success.
    rule, rows: what is done, and what it remembers. restarts, seed: how often, and from which random points.
    gradient: what takes the place of `Search.input_gradient`, where gradient rules make it.
    """

    minimum: bool
    loss: losses.Loss
    stop_early: bool
    rule: "Rule[Any]"
    rows: Callable[[], Rows]
    restarts: int
    seed: int
    gradient: "Callable[[Search[Any], Tensor, losses.Loss], tuple[Tensor, Tensor, Tensor]] | None" = None


class Search(Generic[R_co]):
    """One run of a rule over the samples `index` of a batch.

    A rule evaluates points with `gradient`, `score`, `decide` or `jacobian`, which take one point for each
    sample that is still here, keep the best and return a `Look`. Samples may leave at each such call, so
    tensors that a rule needs afterwards belong into `rows`; `x`, `y`, `threat`, `ids`, `aims` and `best`
    follow by themselves.

    x and all points are in float32 or float64. `dtype` is that of the caller's x, which may be in half
    precision: the model then sees points that may become the best as that precision holds them (`rounded`),
    so that a success is one of the tensor returned.

    problem: defines a success for these samples. best: each one's best point so far. rows: what the rule
    remembers. aims: int64 [n], the classes to which losses lead, None where they lead away from y; these are
    the targets, unless a rule sets others. restart: the number of this run.
    """

    rows: R_co

    def __init__(
        self, frozen: Frozen, problem: Problem, index: Tensor, record: Record, plan: Plan, restart: int
    ) -> None:
        whole = len(index) == len(problem.x)
        self.frozen, self.plan, self.restart = frozen, plan, restart
        self.dtype = problem.x.dtype
        self.problem = (problem if whole else problem.take(index)).wide()
        self.aims = self.problem.targets
        self.best = record.take(index)
        self.best.x_adv = self.best.x_adv.to(self.x.dtype)
        self.rows = plan.rows()  # type: ignore[assignment]
        # bool [n], those that are to leave
        self.leaving: Tensor | None = None
        # rows of the record, and of the caller's batch
        self._record, self._index, self._given = record, index, index
        self._evaluations = 0
        self.forget()
        # whether a point has competed for the best
        self._competed = False

    # What is known of the samples.

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

    def forget(self) -> None:
        """Let gradient rules begin anew: they remember nothing, and draw the same numbers again."""
        # what gradient rules remember: tensors [n, ...]
        self.memory: dict[str, Tensor] = {}
        self._draws = 0

    def uniform(self, count: int) -> Tensor:
        """Draw [n, count] in [0, 1) for a gradient rule; the next call draws others."""
        self._draws += 1
        seed = rng.derive(self.seed, "gradient rule", self.restart)
        return rng.uniform(count, seed, self.ids, self._draws).to(self.x.dtype)

    def full(self, value: float) -> Tensor:
        """Return [n] of that value, in the dtype of distances and losses."""
        return torch.full_like(self.best.rank, value)

    def per_sample(self, value: V) -> V:
        """Return the rows of these samples, where the caller gave one value for each sample of the batch."""
        return value[self._given] if isinstance(value, Tensor) and value.ndim else value

    def distance(self, points: Tensor) -> Tensor:
        """Return [n] or [n, C]: the distance of points to x in the threat's norm."""
        order = self.threat.order
        if points.ndim == self.x.ndim:
            return ops.distance(points, self.x, order)[0].to(points.dtype)
        x = self.x.unsqueeze(1).expand_as(points).flatten(0, 1)
        distance, _ = ops.distance(points.flatten(0, 1), x, order)
        return distance.view(points.shape[:2]).to(points.dtype)

    def rounded(self, points: Tensor) -> Tensor:
        """Return the points as the dtype of the caller's x holds them, in their own dtype and the threat."""
        if self.dtype == points.dtype:
            return points
        x, threat = self.x.to(self.dtype), self.threat
        if points.ndim == x.ndim:
            return threat.rounded(points, x).to(points.dtype)
        each = torch.arange(len(x), device=x.device).repeat_interleave(points.shape[1])
        flat = threat.take(each).rounded(points.flatten(0, 1), x[each])
        return flat.view(points.shape).to(points.dtype)

    # Evaluations.

    def start(self, random_start: bool = False) -> Tensor:
        """Return [n, ...], x itself, or random draw number `restart` of the threat: always in a restart."""
        if not (random_start or self.restart):
            return self.x.clone()
        points = self.threat.random_start(self.x, self.seed, self.ids, draw=self.restart)
        return self.frozen.layout(self.problem.masked(points))

    def gradient(
        self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True, narrow: bool = False
    ) -> GradientLook:
        """Loss, logits and input gradient at points [n, ...]; `loss` defaults to that of the plan.

        The gradient is right up to a positive factor for each sample where the loss is "ce". With
        `judge=False` the points are no candidates for the best. `narrow` leaves the gradient in bfloat16
        where the search is, for a step of the threat. Where the plan has gradient rules they make it; loss
        and logits are those at the points all the same.
        """
        points, seen = self._prepare(points, judge)
        loss = self.plan.loss if loss is None else loss
        ask = self.plan.gradient or Search.input_gradient
        value, logits, gradient = ask(self, seen, loss)
        if not (narrow and may_be_narrow(gradient, self.x)):
            gradient = gradient.to(self.x.dtype)
        gradient = self._usable(gradient)
        return self._judge(GradientLook(points, seen, logits, logits, value, gradient), loss, judge)

    def input_gradient(
        self, points: Tensor, loss: losses.Loss, direction: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, logits and plain gradient at points of all samples, which are no candidates."""
        return self.frozen.input_gradient(self._cast(points), self.y, loss, self.aims, direction)

    def loss_at(self, points: Tensor, loss: losses.Loss) -> tuple[Tensor, Tensor]:
        """Return loss and logits at points of all samples, which are no candidates."""
        logits = self._logits(points)
        return self._loss(logits, loss, self.aims), logits

    def jacobian(
        self, points: Tensor, directions: Tensor | Callable[[Tensor], Tensor], judge: bool = True
    ) -> JacobianLook:
        """Return logits at points [n, ...], and the gradients of <direction, logits> for directions [n, C,
        K], or a function that makes them of the logits [n, K].
        """
        points, seen = self._prepare(points, judge)
        logits, gradients = self.frozen.jacobian(self._cast(seen), directions)
        gradients = self._usable(gradients.to(self.x.dtype))
        return self._judge(JacobianLook(points, seen, logits, logits, gradients), None, judge)

    def decide(self, points: Tensor, judge: bool = True) -> Look:
        """Return logits at points [n, ...], or at C candidates a sample [n, C, ...], in full batches."""
        points, seen = self._prepare(points, judge)
        logits = self._logits(seen)
        return self._judge(Look(points, seen, logits, logits), None, judge)

    def score(self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True) -> ScoredLook:
        """Return `decide` with a loss, which defaults to that of the plan."""
        points, seen = self._prepare(points, judge)
        loss = self.plan.loss if loss is None else loss
        value, logits = self.loss_at(seen, loss)
        return self._judge(ScoredLook(points, seen, logits, logits, value), loss, judge)

    def climb(self: "Search[Climb]", points: Tensor) -> None:
        """Score points [n, ...]; `rows` keeps each sample's point of the largest loss of the plan."""
        loss, rows = self.plan.loss, self.rows
        points, seen = self._prepare(points, True)
        logits = self._logits(seen)
        # one call for small batches: each of those that it stands for takes as long as a small network
        plain = seen is points and logits.dtype == rows.loss.dtype == torch.float32
        if not (plain and isinstance(loss, str) and self._is_plain(loss)):
            look = self._judge(
                ScoredLook(points, seen, logits, logits, self._loss(logits, loss, self.aims)), loss, True
            )
            none = torch.zeros_like(look.adversarial)
            keep_best_(rows.best, rows.loss, none, look.x_adv, look.loss.to(rows.loss.dtype), none)
            return
        best, self._competed = self.best, True
        record = best.x_adv, best.rank, best.success
        climb_(record, best.not_finite, (rows.best, rows.loss), points, logits, self.y, loss, self.targets)
        self._evaluated()

    def _is_plain(self, loss: str) -> bool:
        """Return whether a point ranks by its loss, one of `ops.logit_loss`, and is kept as it is seen."""
        ranks = loss in KINDS and (loss != "ce" or self.targets is not None)
        as_seen = self.frozen.input_threshold is None and self.aims is self.targets
        return ranks and as_seen and self.problem.criterion is WRONG and not self.plan.minimum

    def judge(self, points: Tensor, logits: Tensor) -> Look:
        """Take the verdict from logits [n, K] that a rule has computed itself, at `rounded` points of samples
        that stay (`drop_leaving`).
        """
        return self._judge(Look(points, points, logits, logits), None, True)

    def offer(self, points: Tensor, success: Tensor) -> None:
        """Offer points [n, ...] with a known verdict `success` bool [n], which counts inside the threat.

        Their loss is not known: to a budget attack they are the weakest of successes.
        """
        self._competed = True
        points = points.to(self.x.dtype)
        best, distance = self.best, self.distance(points)
        success = success & self.threat.contains(points, self.x)
        rank = torch.where(success, -distance if self.plan.minimum else -torch.inf, torch.nan)
        keep_best_(best.x_adv, best.rank, best.success, points, rank.to(best.rank.dtype), success)

    def finish(self, points: Tensor, loss: losses.Loss | None = None) -> None:
        """Take the last points of the rule. They do not pass the model where nothing competes with them."""
        if not self._competed and self.plan.restarts == 1:
            self.best.x_adv.copy_(self._candidate(self.rounded(self.drop_leaving(points))))
        elif loss is None and self.plan.minimum:
            self.decide(points)
        else:
            self.score(points, loss)

    def rank(self, look: ScoredLook) -> Tensor:
        """Return [n] by the loss of the plan, which `look` was taken with."""
        return graded(look.loss, look.logits, self.y, self.plan.loss, self.aims)

    # How samples leave.

    def leave(self, done: Tensor) -> None:
        """Drop the samples `done` bool [n] from points and rows at the next evaluation."""
        self.leaving = done if self.leaving is None else self.leaving | done

    def drop_leaving(self, points: Tensor) -> Tensor:
        """Drop the samples that are to leave; return the points of the others, with x outside the mask.

        The evaluations do this by themselves; a rule that asks the model in its own way calls it first.
        """
        leaving = self.leaving
        if leaving is not None and may_leave(self._evaluations, points.device):
            self.leaving = None
            if bool(leaving.any()):
                if self.plan.stop_early:
                    self._prove()
                points = points[self._drop(leaving)]
        return self.problem.masked(points)

    def drop_broken(self) -> None:
        """Drop the samples that are broken, in an attack with `stop_early`. Raises Over if all are."""
        if self.plan.stop_early:
            broken = self._prove()
            if bool(broken.any()):
                self._drop(broken)

    def close(self) -> None:
        """Prove the successes of those still here, and write all to the record."""
        if self.plan.stop_early:
            self._prove()
        self._record.put(self._index, self.best)

    # Searches within a search, and steps that were taken elsewhere.

    def over(self, problem: Problem, record: Record, plan: Plan | None = None) -> "Search[R_co]":
        """Return a search like this one over all samples of `problem`, whose best it writes to `record`."""
        everyone = torch.arange(len(problem.x), device=problem.x.device)
        plan = self.plan if plan is None else plan
        made: Search[R_co] = Search(self.frozen, problem, everyone, record, plan, self.restart)
        made.dtype = self.dtype
        return made

    def copied(self, count: int) -> tuple["Search[R_co]", Record]:
        """Return a search of `count` copies of the samples, all in turn, and the record that it writes."""
        index = torch.arange(len(self.x), device=self.x.device).repeat(count)
        record = self.best.take(index)
        made = self.over(self.problem.take(index), record)
        made._given = self._given[index]
        return made, record

    def merge(self, found: Record) -> None:
        """Merge what a search of copies knows of these samples; those broken already keep theirs."""
        self._competed = True
        best = self.best
        still = ~best.success if self.plan.stop_early else torch.ones_like(best.success)
        best.refuted |= found.refuted & still
        best.not_finite |= found.not_finite & still
        size = torch.maximum(best.largest_gradient, found.largest_gradient)
        best.largest_gradient = torch.where(still, size, best.largest_gradient)
        # a failure never takes the place of a success
        keep_best_(best.x_adv, best.rank, best.success, found.x_adv, found.rank, found.success & still)

    def steps_ahead(self, most: int) -> int:
        """Return how many evaluations, at most `most`, lead to the next at which samples may leave."""
        if not self.plan.stop_early:
            return most
        ends = (n for n in range(1, most) if may_leave(self._evaluations + n - 1, self.x.device))
        return next(ends, most)

    def count_replayed(self, evaluations: int) -> None:
        """Count evaluations that a graph made, at most `steps_ahead`, whose points have competed."""
        self._competed = True
        self._evaluations += evaluations
        if may_leave(self._evaluations - 1, self.x.device):
            self.drop_broken()

    def _drop(self, left: Tensor) -> Tensor:
        """Write the samples `left` bool [n] to the record; return those kept. Raises Over if none is."""
        self._record.put(self._index[left], self.best.take(left))
        kept = ~left
        self._index, self._given = self._index[kept], self._given[kept]
        if not len(self._index):
            raise Over
        self.problem, self.best = self.problem.take(kept), self.best.take(kept)
        self.aims = None if self.aims is None else self.aims[kept]
        self.rows.take(kept)
        self.memory = {name: value[kept] for name, value in self.memory.items()}
        if self.leaving is not None:
            self.leaving = self.leaving[kept]
        return kept

    def _prepare(self, points: Tensor, judge: bool) -> tuple[Tensor, Tensor]:
        """Return the points of those that stay, and what the model is to see: `rounded` candidates."""
        points = self.drop_leaving(points)
        self.frozen.asks_for(self.ids, 1 if points.ndim == self.x.ndim else points.shape[1])
        return points, self.rounded(points) if judge else points

    def _logits(self, points: Tensor) -> Tensor:
        """Return [n, K] or [n, C, K] of candidates [n, C, ...]."""
        if points.ndim == self.x.ndim:
            return self.frozen(self._cast(points))
        flat = self._cast(points).flatten(0, 1)
        step = max(1, CHUNK // max(1, flat[:1].numel()))
        logits = torch.cat([self.frozen(part) for part in torch.split(flat, step)])
        return logits.view(*points.shape[:2], -1)

    def _loss(self, logits: Tensor, loss: losses.Loss, aims: Tensor | None) -> Tensor:
        """Return [n] or [n, C] of logits [n, K] or [n, C, K]."""
        shape, logits = logits.shape[:-1], logits.flatten(0, -2)
        y, aims = repeated(self.y, *shape[1:]), repeated(aims, *shape[1:])
        return losses.loss_value(logits, y, loss, aims).view(shape)

    def _usable(self, gradient: Tensor) -> Tensor:
        """Return `gradient` with zeros for what is not finite or may not move; its size goes on record."""
        mask = self.problem.mask
        if mask is not None:  # before its size is taken: what happens outside the mask is of no interest
            gradient = gradient.where(mask if gradient.ndim == self.x.ndim else mask.unsqueeze(1), 0.0)
        given = gradient if gradient.ndim == self.x.ndim else gradient.flatten(1, 2)
        size = largest(given).to(self.best.largest_gradient.dtype)
        torch.maximum(self.best.largest_gradient, size, out=self.best.largest_gradient)
        return gradient if surely_finite(size) else gradient.nan_to_num(0.0, 0.0, 0.0)

    def _judge(self, look: L, loss: losses.Loss | None, judge: bool) -> L:
        """Give `look` its verdict; its points compete for the best where `judge` says so."""
        shape, logits = look.logits.shape[:-1], look.logits.flatten(0, -2)
        y, targets = repeated(self.y, *shape[1:]), repeated(self.targets, *shape[1:])
        look.adversarial = self.problem.criterion.met(logits, y, targets).view(shape)
        finite = None if surely_finite(logits) else (largest(logits) < torch.inf).view(shape)
        if finite is not None:
            look.adversarial = look.adversarial & finite
            self.best.not_finite.logical_or_(~(finite if finite.ndim == 1 else finite.all(1)))
        if judge:
            self._keep(look, loss, finite)
            if isinstance(look, GradientLook) and not self.plan.minimum:
                self.best.note_rank()
        kept = self._evaluated(judge)
        return look if kept is None else look.take(kept)

    def _evaluated(self, judge: bool = True) -> Tensor | None:
        """Count an evaluation, and drop the samples that it has broken; return those kept, if it has any."""
        self._evaluations += 1
        leaves = judge and self.plan.stop_early and may_leave(self._evaluations - 1, self.x.device)
        if leaves and bool(self.best.success.any()):
            broken = self._prove()
            if bool(broken.any()):
                return self._drop(broken)
        return None

    def _keep(self, look: Look, loss: losses.Loss | None, finite: Tensor | None) -> None:
        """Update each sample's best point. A failure with a NaN loss or logits not `finite` is never kept."""
        self._competed = True
        candidate, success = self._candidate(look.seen, look.logits.dtype), look.adversarial
        best = self.best
        if self.plan.minimum:
            each, met = (candidate, success) if success.ndim == 2 else (candidate[:, None], success[:, None])
            record = best.x_adv, best.rank, best.success
            distance = keep_nearest_(record, self.x, each, met, self.threat.order).view(success.shape)
            look.distance = distance if candidate is look.x_adv else self.distance(look.x_adv)
            return
        rank = self._strength(look, loss)
        rank = rank if finite is None else torch.where(finite, rank, torch.nan)
        rank = torch.where(success & rank.isnan(), -torch.inf, rank)
        if rank.ndim == 2:
            place = strongest(rank, success)
            row = torch.arange(len(place), device=place.device)
            candidate, success, rank = candidate[row, place], success[row, place], rank[row, place]
        keep_best_(best.x_adv, best.rank, best.success, candidate, rank.to(best.rank.dtype), success)

    def _strength(self, look: Look, loss: losses.Loss | None) -> Tensor:
        """Return [n] or [n, C] by the loss of the plan, whatever `loss` the look was taken with."""
        shape = look.logits.shape[:-1]
        if isinstance(look, ScoredLook) and loss == self.plan.loss and self.aims is self.targets:
            value = look.loss
        else:
            value = self._loss(look.logits, self.plan.loss, self.targets)
        y, targets = repeated(self.y, *shape[1:]), repeated(self.targets, *shape[1:])
        return graded(value.flatten(), look.logits.flatten(0, -2), y, self.plan.loss, targets).view(shape)

    def _candidate(self, points: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the points; those nearest to x that look the same to a model that binarizes its input."""
        threshold = self.frozen.input_threshold
        if threshold is None:
            return points
        x = (self.x if points.ndim == self.x.ndim else self.x.unsqueeze(1)).to(self.dtype)
        return snap(x, points, threshold, self.frozen.sees(self.dtype), dtype).to(points.dtype)

    def _prove(self) -> Tensor:
        """Return bool [n]: the successes that the model as given confirms. The others become `refuted`."""
        best = self.best
        if self.frozen.exact or not bool(best.success.any()):
            return best.success
        index = best.success.nonzero().squeeze(1)
        self.frozen.asks_for(self.ids[index])
        logits = self.frozen.verdict(self._cast(best.x_adv[index]))
        confirmed = self.problem.take(index).met(logits)
        best.success[index] = confirmed
        best.refuted[index] |= ~confirmed
        return best.success

    def _cast(self, points: Tensor) -> Tensor:
        """Cast to the caller's dtype where the model sees that, and not the dtype of its weights."""
        return points.to(self.dtype) if self.frozen.sees(self.dtype) == self.dtype else points


R = TypeVar("R", bound=Rows, default=Any)
Rule = Callable[[Search[R]], None]
