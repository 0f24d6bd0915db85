"""A search: how a rule evaluates points of the samples still under attack, and which point is the best."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypeVar

from fastadv import losses
from fastadv._waiting import steps_ahead, surely_finite, waits
from fastadv.attacks.core.criterion import Criterion
from fastadv.attacks.core.look import GradientLook, JacobianLook, Look, ScoredLook, go_on
from fastadv.attacks.core.loop import Loop
from fastadv.attacks.core.points import like, taken
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.core.ranking import (
    graded,
    keep_nearest,
    keep_strongest,
    loss_of,
    of_rows,
    ranked,
    repeated,
)
from fastadv.attacks.core.record import Record, Rows, Steps
from fastadv.attacks.core.samples import R_co, Samples
from fastadv.attacks.special import bounded_outputs
from fastadv.attacks.special.snap import snap
from fastadv.engine.bound import Ask
from fastadv.ops import largest
from fastadv.ops._step import may_be_narrow
from fastadv.ops.keep_best import keep_best_
from fastadv.threat import Linf

L = TypeVar("L", bound=Look)

# values of x that pass the model at once where a rule asks for many candidates a sample
CHUNK = 1 << 22


class Search(Samples[R_co]):
    """One run of a rule over samples of a batch.

    A rule evaluates points with `gradient`, `score`, `decide` or `jacobian`, which take one point for each
    sample that is still here, keep the best and return a `Look`. Unless `judge` is False, the points are
    candidates for the best. A `loss` of None is that of the plan. Samples may leave at each such call. So
    tensors that a rule needs afterwards belong in `rows`; `x`, `y`, `threat`, `ids`, `aims` and `best` follow
    automatically.
    """

    def start(self, random_start: bool = False, draw: int | None = None) -> Tensor:
        """Return x for draw 0, unless `random_start`, or a draw from ball and box; None is `restart`."""
        draw = self.restart if draw is None else draw
        if not (random_start or draw):
            self._start = self.x.clone()
            return self._start
        points = self.threat.random_start(self.x, self.seed, self.ids, draw=draw)
        return self.classifier.layout(self.problem.masked(points))

    def gradient(
        self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True, narrow: bool = False
    ) -> GradientLook:
        """Evaluate loss, logits and input gradient; gradient rules make the gradient where there are some.

        For "ce" and "ce_sharp" the gradient is right up to a positive factor for each sample. `narrow` lets
        it stay in bfloat16, for a step of the threat.
        """
        loss = self._loss(loss)
        if (loop := self._usual(judge, loss)) is not None:
            value, logits, gradient = loop.ask(points, self._first_ask())
            met = loop.judge(points, value, logits, gradient)
            look = GradientLook(points, points, logits, met, value.clone(), self._wide(gradient, narrow))
            look.gradient = self._zeroed(look.gradient)
            self._stand_in(look, None if surely_finite(value) else _finite(logits))
            return self._taken(look)
        points, seen = self._prepare(points, judge)
        value, logits, gradient = self._follow(seen, loss)
        look = GradientLook(points, seen, logits, logits, value, self._usable(self._wide(gradient, narrow)))
        return self._judge(look, loss, judge)

    @property
    def led(self) -> bool:
        """Whether the steps follow what a criterion of one class raises by default."""
        criterion = self.problem.criterion
        of_criterion = type(criterion) is not Criterion and criterion.outputs == "classes"
        return of_criterion and self.plan.loss == criterion.leading

    def direction(self, points: Tensor) -> Tensor:
        """Return the gradient of the loss of the plan at points that need no verdict."""
        self.classifier.asks_for(self.ids)
        _, logits, gradient = self._follow(points, self.plan.loss)
        self._mark(_finite(logits))
        return self._usable(gradient.to(self.x.dtype))

    def ascend(self: "Search[Steps]") -> None:
        """Evaluate the gradient at `rows.points`, and move them along it by a step of the threat."""
        rows, threat, loop = self.rows, self.threat, self._usual(True, self.plan.loss)
        if loop is None:
            look = self.gradient(rows.points, narrow=True)
            rows.points = self.threat.step_(look.x_adv, look.gradient, self.x, rows.step_size)
            return
        self._competed = True
        value, logits, gradient = loop.ask(rows.points, self._first_ask())
        if not self.stays:
            if not surely_finite(value) and (finite := _finite(logits)) is not None:
                last = self.answer.get("gradient")
                rows.points, gradient = go_on(rows.points, self.x, finite, gradient, last)
            self.answer = {"gradient": gradient}
        if type(threat) is Linf:
            loop.judge(rows.points, value, logits, gradient, loop.move(threat.radius, rows.step_size))
        else:
            loop.judge(rows.points, value, logits, gradient)
            threat.step_(rows.points, self._zeroed(gradient), self.x, rows.step_size)
        self._evaluated()

    @property
    def loop(self) -> Loop | None:
        """What looks at points by kernels alone; None where that takes more."""
        loop: Loop | None = self._loop
        if loop is None or loop.aims is not self.aims:
            self._loop = loop = None if self._rare else Loop.of(self)
            self._rare = loop is None
        return loop

    def _usual(self, judge: bool, loss: losses.Loss) -> Loop | None:
        """Return the loop where it can look at candidates for the best by that loss."""
        return self.loop if judge and self.leaving is None and loss == self.plan.loss else None

    def _taken(self, look: L) -> L:
        """Return what a loop has judged, of the samples that stay."""
        self._competed = True
        kept = self._evaluated()
        return look if kept is None else look.take(kept)

    def _first_ask(self) -> Ask | None:
        return None if self.edge.met else self._first_gradient

    def _first_gradient(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `input_gradient` of the loss of the plan, which may find that the search is a rare one."""
        part = self.input_gradient(points, self.plan.loss)
        if self.edge.depth is not None:
            self._loop, self._rare = None, True
        return part

    def _follow(self, points: Tensor, loss: losses.Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, logits and the gradient that the plan follows."""
        ask = self.plan.gradient or Search.input_gradient
        return ask(self, points, loss)

    def input_gradient(
        self, points: Tensor, loss: losses.Loss, direction: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, logits and gradient, as a model does, at points that are none for the best."""
        clean, self.clean_pass = self.clean_pass, None
        loss_of_rows = of_rows(loss, self.ids)

        def pull(at: Tensor) -> tuple[Tensor, ...]:
            squashed = self.problem.bounded
            if squashed is not None and (loss in bounded_outputs.LOSSES or self.led):
                exact = self.plan.minimum and loss == "margin"
                return bounded_outputs.unbent(
                    self.classifier, self._cast(at), self.y, loss, self.aims, squashed, exact
                )
            if clean is not None and 2 * len(at) >= len(clean.logits) and self._at_x(at):
                rows = None if len(at) == len(clean.logits) else self._places
                return clean.gradient(rows, self.y, loss_of_rows, self.aims, direction)
            return self.classifier.input_gradient(self._cast(at), self.y, loss_of_rows, self.aims, direction)

        ask = partial(self._ask_rows, loss)
        value, logits, gradient = self.edge.around(points, pull, lambda at: self.loss_at(at, loss), ask)
        return value, logits, gradient

    def _at_x(self, points: Tensor) -> bool:
        return points is self._start or torch.equal(points, self.x)

    def _ask_rows(self, loss: losses.Loss, points: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient of a loss at points of the rows int64 [m] alone."""
        if self.problem.criterion.outputs == "any":
            loss = self.problem.margin
        elif callable(loss):
            loss = "margin"  # it may hold a value for each sample
        self.classifier.asks_for(self.ids[rows])
        y, aims = self.y[rows], taken(self.aims, rows)
        gradient = self.classifier.input_gradient(self._cast(points), y, loss, aims, True)[2]
        self.classifier.asks_for(self.ids)
        return gradient

    def loss_at(self, points: Tensor, loss: losses.Loss) -> tuple[Tensor, Tensor]:
        """Return loss and logits at points [n, ...] or [n, C, ...] that are no candidates for the best."""
        logits = self._logits(points)
        return loss_of(logits, self.y, loss, self.aims, self.ids), logits

    def jacobian(
        self, points: Tensor, directions: Tensor | Callable[[Tensor], Tensor], judge: bool = True
    ) -> JacobianLook:
        """Evaluate logits, and gradients of <direction, logits>; directions [n, C, K], or of the logits."""
        points, seen = self._prepare(points, judge)
        logits, gradients = self.edge.around(
            seen,
            lambda at: self.classifier.jacobian(self._cast(at), directions),
            lambda at: (self._logits(at),),
            partial(self._ask_rows, "margin"),
        )
        gradients = self._usable(gradients.to(self.x.dtype))
        look = JacobianLook(points, seen, logits, logits, gradients)
        return self._judge(look, None, judge)

    def decide(self, points: Tensor, judge: bool = True) -> Look:
        """Evaluate logits at points [n, ...], or [n, C, ...] for C candidates a sample, in full batches."""
        if points.ndim == self.x.ndim and (loop := self._usual(judge, self.plan.loss)) is not None:
            _, logits, met = loop.score(points)
            return self._taken(Look(points, points, logits, met))
        points, seen = self._prepare(points, judge)
        logits = self._logits(seen)
        return self._judge(Look(points, seen, logits, logits), None, judge)

    def score(self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True) -> ScoredLook:
        """Evaluate logits and a loss at points [n, ...] or [n, C, ...], in full batches."""
        loss = self._loss(loss)
        if points.ndim == self.x.ndim and (loop := self._usual(judge, loss)) is not None:
            value, logits, met = loop.score(points)
            return self._taken(ScoredLook(points, points, logits, met, value))
        points, seen = self._prepare(points, judge)
        value, logits = self.loss_at(seen, loss)
        return self._judge(ScoredLook(points, seen, logits, logits, value), loss, judge)

    def judge(self, points: Tensor, logits: Tensor) -> Look:
        """Judge points, `rounded` and of those that `drop_leaving` keeps, by logits of the rule's own."""
        return self._judge(Look(points, points, logits, logits), None, True)

    def offer(self, points: Tensor, success: Tensor) -> None:
        """Offer points of a known verdict, if in the threat; with a budget they are the weakest successes."""
        self._competed = True
        points = points.to(self.x.dtype)
        best, distance = self.best, self.distance(points)
        success = success & self.threat.contains(points, self.x)
        rank = torch.where(success, -distance if self.plan.minimum else -torch.inf, torch.nan)
        keep_best_(best.x_adv, best.rank, best.success, points, rank.to(best.rank.dtype), success)

    def finish(self, points: Tensor) -> None:
        """Take the last points of the rule; where nothing competes with them, only the verdict sees them."""
        if self._competed or self.plan.restarts > 1:
            self.decide(points)
        else:
            self.best.x_adv.copy_(self._candidate(self.rounded(self.drop_leaving(points))))

    def rank(self, look: ScoredLook) -> Tensor:
        """Return [n], larger for stronger points, for a look taken with the loss of the plan."""
        return graded(look.loss, look.logits, self.y, self.plan.loss, self.aims)

    # Searches within a search, and steps that were taken elsewhere.

    def over(self, problem: Problem, record: Record) -> "Search[R_co]":
        """Return a search like this one over other samples, which writes their best points to `record`."""
        everyone = torch.arange(len(problem.x), device=problem.x.device)
        part: Search[R_co] = Search(self.classifier, problem, everyone, record, self.plan, self.restart)
        part.dtype = self.dtype
        return part

    def copied(self, count: int) -> tuple["Search[R_co]", Record]:
        """Return a search of the samples `count` times in a row, and the record that it writes."""
        index = torch.arange(len(self.x), device=self.x.device).repeat(count)
        record = self.best.take(index)
        part = self.over(self.problem.take(index), record)
        part._places = self._places[index]
        return part, record

    def merge(self, record: Record) -> None:
        """Merge what a search of copies found; with `stop_early` broken samples keep their points."""
        self._competed, success = True, self.best.success
        self.best.merge(record, ~success if self.plan.stop_early else torch.ones_like(success))

    def steps_ahead(self, most: int) -> int:
        """Return how many evaluations, at most so many, lead up to the next at which samples may leave."""
        return steps_ahead(self.evaluations, most, self.x.device) if self.plan.stop_early else most

    def replayed(self, leave: bool) -> None:
        """Take note of steps that were taken elsewhere, and wrote the tensors; the samples broken `leave`."""
        self._competed, self._loop = True, None
        if leave:
            self.drop_broken()

    def _prepare(self, points: Tensor, judge: bool) -> tuple[Tensor, Tensor]:
        """Return the points of those that stay, and what the model is to see: `rounded` candidates."""
        points = self.drop_leaving(points)
        self.classifier.asks_for(self.ids, 1 if points.ndim == self.x.ndim else points.shape[1])
        return points, self.rounded(points) if judge else points

    def _logits(self, points: Tensor) -> Tensor:
        """Return [n, K] or [n, C, K] of candidates [n, C, ...]."""
        if points.ndim == self.x.ndim:
            return self.classifier(self._cast(points))
        flat = self._cast(points).flatten(0, 1)
        step = max(1, CHUNK // max(1, flat[:1].numel()))
        logits = torch.cat([self.classifier(part) for part in torch.split(flat, step)])
        return logits.view(*points.shape[:2], -1)

    def _loss(self, loss: losses.Loss | None) -> losses.Loss:
        return self.plan.loss if loss is None else loss

    def _wide(self, gradient: Tensor, narrow: bool) -> Tensor:
        """Return a gradient in the dtype of x, unless it may stay in bfloat16."""
        return gradient if narrow and may_be_narrow(gradient, self.x) else gradient.to(self.x.dtype)

    def _usable(self, gradient: Tensor) -> Tensor:
        """Return `gradient` with zeros for what is not finite or may not move; its size goes on record."""
        mask = self.problem.mask
        if mask is not None:  # before its size is taken: what happens outside the mask is of no interest
            gradient = gradient.where(mask if gradient.ndim == self.x.ndim else mask.unsqueeze(1), 0.0)
        functions = gradient if gradient.ndim == self.x.ndim else gradient.flatten(1, 2)
        size = largest(functions).to(self.best.largest_gradient.dtype)
        torch.maximum(self.best.largest_gradient, size, out=self.best.largest_gradient)
        return self._zeroed(gradient)

    def _zeroed(self, gradient: Tensor) -> Tensor:
        """Return a gradient, whose size is on record, with zeros for what is not finite."""
        if surely_finite(self.best.largest_gradient):
            return gradient
        return gradient.nan_to_num(0.0, 0.0, 0.0)

    def _mark(self, finite: Tensor | None) -> None:
        """Note the samples whose logits are not `finite` bool [n] or [n, C]; None where all are."""
        if finite is not None:
            self.best.not_finite.logical_or_(~finite.view(len(finite), -1).all(1))

    def _stand_in(self, look: GradientLook | JacobianLook, finite: Tensor | None) -> None:
        """Let a look repeat the last answer where its logits are not `finite`; one without goes back."""
        if self.stays:
            return  # steps of a graph in which there were such logits are taken again
        if finite is not None:
            *rest, along = look.answers
            for name in rest:
                now, last = getattr(look, name), self.answer.get(name)
                if last is not None and last.shape == now.shape:
                    setattr(look, name, torch.where(like(finite, now), now, last.to(now.dtype)))
            gradient = getattr(look, along)
            look.x_adv, gradient = go_on(look.x_adv, self.x, finite, gradient, self.answer.get(along))
            setattr(look, along, gradient)
        self.answer = {name: getattr(look, name) for name in look.answers}

    def _judge(self, look: L, loss: losses.Loss | None, judge: bool) -> L:
        """Give `look` its verdict by its logits; its points compete for the best if `judge`."""
        logits = look.logits.flatten(0, -2)
        finite = _finite(logits)
        if isinstance(look, GradientLook | JacobianLook):
            self._stand_in(look, finite)
        shape = look.logits.shape[:-1]
        y, targets = repeated(self.y, *shape[1:]), repeated(self.targets, *shape[1:])
        logits, criterion = look.logits.flatten(0, -2), self.problem.criterion
        if (decisions := criterion.decisions(logits, y, targets)) is None:
            met = criterion.met(logits, y, targets)
        else:
            met, look.count = decisions[0] >= decisions[1], decisions[0].view(shape)
        look.adversarial = met.view(shape)
        if finite is not None:
            finite = finite.view(shape)
            look.adversarial = look.adversarial & finite
            self._mark(finite)
        if judge:
            self._keep(look, loss, finite)
            if isinstance(look, GradientLook) and not self.plan.minimum:
                self.best.note_rank()
        kept = self._evaluated(judge)
        return look if kept is None else look.take(kept)

    def _evaluated(self, judge: bool = True) -> Tensor | None:
        """Count an evaluation, and drop the samples that it has broken; return int [m], who stays, if any."""
        self.evaluations += 1
        if judge and not self.stays and self.shrinks(self.best.success):
            broken = self._prove()
            if bool(broken.any()):
                return self._drop(broken)
        return None

    def _keep(self, look: Look, loss: losses.Loss | None, finite: Tensor | None) -> None:
        """Update each sample's best point. A failure with a NaN loss or logits not `finite` is never kept."""
        self._competed = True
        candidate, success = self._candidate(look.seen, look.logits.dtype), look.adversarial
        if self.plan.minimum:
            distance = keep_nearest(self.best, self.x, candidate, success, self.threat.order)
            look.distance = distance if candidate is look.x_adv else self.distance(look.x_adv)
        else:
            strength = self.strength(look, loss)
            if self._stay_broken():
                strength = torch.where(like(self.best.success, strength), torch.nan, strength)
            keep_strongest(self.best, candidate, success, strength, finite)

    def _stay_broken(self) -> bool:
        """Return whether samples may be broken that have not left yet: their points stay as they are."""
        return self.plan.stop_early and waits(self.x.device)

    def strength(self, look: Look, loss: losses.Loss | None) -> Tensor:
        """Return [n] or [n, C], by which points compete, whatever `loss` the look was taken with."""
        shape = look.logits.shape[:-1]
        if isinstance(look, ScoredLook) and loss == self.plan.loss and self.aims is self.targets:
            value = look.loss
        else:
            value = loss_of(look.logits, self.y, self.plan.loss, self.targets, self.ids)
        y, targets = repeated(self.y, *shape[1:]), repeated(self.targets, *shape[1:])
        logits = look.logits.flatten(0, -2)
        value = graded(value.flatten(), logits, y, self.plan.loss, targets)
        return ranked(value.view(shape), look.count)

    def _candidate(self, points: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the points; those nearest to x that look the same to a model that binarizes its input."""
        if self.threshold is None:
            return points
        x = (self.x if points.ndim == self.x.ndim else self.x.unsqueeze(1)).to(self.dtype)
        return snap(x, points, self.threshold, self.classifier.sees(self.dtype), dtype).to(points.dtype)


def _finite(logits: Tensor) -> Tensor | None:
    """Return bool [n], whether all logits [n, K] are finite; None where they surely are."""
    # a GPU launches torch's kernel faster than one of ours
    return None if surely_finite(logits) else torch.linalg.vector_norm(logits, torch.inf, dim=1) < torch.inf


R = TypeVar("R", bound=Rows, default=Any)
Rule = Callable[[Search[R]], None]
