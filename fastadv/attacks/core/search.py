"""A search: how a rule evaluates points of the samples still under attack, and which point is the best."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypeVar

from fastadv import losses
from fastadv.attacks.core.asks import Asks
from fastadv.attacks.core.judge import Answer, graded
from fastadv.attacks.core.look import GradientLook, JacobianLook, Look, ScoredLook, finite_rows, go_on
from fastadv.attacks.core.record import Record, Rows, Steps
from fastadv.attacks.core.samples import R_co
from fastadv.attacks.core.state import State
from fastadv.ops._step import may_be_narrow
from fastadv.ops.keep_best import keep_best_

L = TypeVar("L", bound=Look)

# values of candidates that are held at once: so many times those of x, and at least a few megabytes
SHARE, LEAST = 4, 1 << 20


class Search(Asks[R_co]):
    """One run of a rule over samples of a batch.

    A rule evaluates points with `gradient`, `score`, `decide` or `jacobian`, which take one point for each
    sample that is still here, keep the best and return a `Look`. Unless `judge` is False, the points are
    candidates for the best. A `loss` of None is that of the plan. Samples may leave at each such call. So
    tensors that a rule needs later belong in `rows`; `x`, `y`, `threat`, `ids`, `aims` and `best` follow.
    """

    def start(self, random_start: bool = False, draw: int | None = None) -> Tensor:
        """Return x for draw 0, unless `random_start`, or a draw from ball and box; None is `restart`."""
        draw = self.restart if draw is None else draw
        if not (random_start or draw):
            return self.x.clone()
        points = self.threat.random_start(self.x, self.seed, self.ids, draw=draw)
        return self.classifier.layout(self.problem.masked(points))

    # Looks at points: what is said of them is judged, and samples may leave.

    def gradient(self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True) -> GradientLook:
        """Evaluate loss, logits and input gradient; gradient rules make the gradient where there are some.

        For "ce" and "ce_sharp" the gradient is right up to a positive factor for each sample.
        """
        loss = self.plan.loss if loss is None else loss
        points = self.drop_leaving(points)
        value, logits, gradient = self.ask(loss)(points)
        look = GradientLook(points, logits, value, self._shaped(gradient))
        return self._judged(look, judge, self._ranks(loss))

    def ascend(self: "Search[Steps]") -> None:
        """Evaluate the gradient at `rows.points`, and move them along it by a step of the threat."""
        rows = self.rows
        seen = self.drop_leaving(rows.points)
        value, logits, gradient = self.ask(self.plan.loss)(seen)
        gradient, finite = self._shaped(gradient, True), self._finite(logits)
        points, (gradient,) = self._go_on(seen, finite, [gradient])
        answer = Answer(seen, value if self._ranks(self.plan.loss) else None, logits, gradient, finite)
        rows.points = self.judge_now.step(points, answer, rows.step_size)
        self._competed = True
        self._evaluated()

    def jacobian(self, points: Tensor, directions: Tensor | Callable[[Tensor], Tensor]) -> JacobianLook:
        """Evaluate logits, and gradients of <direction, logits>; directions [n, C, K], or of the logits."""
        points = self.drop_leaving(points)
        logits, gradients = self.classifier.jacobian(points, directions, rows=self.problem.rows)
        self.met = True
        return self._judged(JacobianLook(points, logits, self._shaped(gradients)), True)

    def decide(self, points: Tensor, judge: bool = True) -> Look:
        """Evaluate logits at points [n, ...], or [n, C, ...] for C candidates a sample, in full batches."""
        points = self.drop_leaving(points)
        return self._judged(Look(points, self.logits(points)), judge)

    def score(self, points: Tensor, loss: losses.Loss | None = None, judge: bool = True) -> ScoredLook:
        """Evaluate logits and a loss at points [n, ...] or [n, C, ...], in full batches."""
        loss = self.plan.loss if loss is None else loss
        points = self.drop_leaving(points)
        value, logits = self.loss_at(points, loss)
        return self._judged(ScoredLook(points, logits, value), judge, self._ranks(loss))

    def judge(self, points: Tensor, logits: Tensor) -> Look:
        """Judge points, of those that `drop_leaving` keeps, by logits of the rule's own."""
        return self._judged(Look(points, logits), True)

    def direction(self, points: Tensor) -> Tensor:
        """Return the gradient of the loss of the plan at points that need no verdict."""
        _, logits, gradient = self.ask(self.plan.loss)(points)
        gradient = self._shaped(gradient)
        self.judge_now.note(gradient, finite_rows(logits))
        return self.best.usable(gradient)

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
        points = self.drop_leaving(points)
        if self._competed or self.plan.attempts > 1:
            self._judged(Look(points, self.classifier(points, self.problem.rows)), True)
        else:
            self.best.x_adv.copy_(points)

    @property
    def led(self) -> bool:
        """Whether the steps follow what a criterion of one class raises by default."""
        criterion = self.problem.criterion
        return criterion.raises and criterion.outputs == "classes" and self.plan.loss == criterion.leading

    def rank(self, look: ScoredLook) -> Tensor:
        """Return [n], larger for stronger points, for a look taken with the loss of the plan."""
        return graded(look.loss, look.logits, self.y, self.plan.loss, self.aims)

    def strength(self, look: Look) -> Tensor:
        """Return by what points compete with a budget, whatever the loss of the look."""
        return self.judge_now.strength(None, look.logits, look.count)

    # Searches within a search, and steps that were taken elsewhere.

    @property
    def held(self) -> int:
        """How many values of candidates may be in memory at once."""
        return max(LEAST, SHARE * self.x.numel())

    def in_parts(self, candidates: int, step: Callable[..., Any]) -> Any:
        """Take a step that holds so many candidates a sample, of few samples at a time where they are large.

        `step` gets (search of the samples, int64 [m] which they are), and may write their rows; what it
        returns, [m, ...], is put together. No sample may leave inside.
        """
        self.drop_leaving(self.x)
        every = torch.arange(len(self.x), device=self.x.device)
        few = max(1, self.held // max(1, candidates * self.x[:1].numel()))
        if few >= len(every):
            return step(self, every)
        results, written, state = [], [], self.state
        for rows in torch.split(every, few):
            part = self.at(state.take(rows))
            results.append(step(part, rows))
            written.append(part.rows)
            self.best.put(rows, part.best)
            self._competed |= part._competed
        self.rows.join(written)
        return None if results[0] is None else torch.cat(results)

    @property
    def state(self) -> State:
        """What a step reads and writes of these samples."""
        aims = None if self.aims is self.targets else self.aims
        return State(self.problem, aims, self._places, self.best, self.rows)

    def at(self, state: State) -> "Search[R_co]":
        """Return a search like this one that is in another state, and writes there."""
        everyone = torch.arange(len(state.task.x), device=self.x.device)
        part: Search[R_co] = Search(state.task, everyone, state.best, self.plan, self.restart)
        part._places = state.places
        part.aims = part.targets if state.aims is None else state.aims
        part.rows = state.rows  # type: ignore[assignment]
        return part

    def beside(self) -> "Search[R_co]":
        """Return a search of the same samples, which may leave it, that remembers nothing of them yet."""
        return self.at(self._begun())

    def copied(self, count: int) -> tuple["Search[R_co]", Record]:
        """Return a search of the samples `count` times in a row, and the record that it writes."""
        state = self._begun().take(torch.arange(len(self.x), device=self.x.device).repeat(count))
        return self.at(state), state.best

    def _begun(self) -> State:
        """Return the state where a rule begins, with the best points of now."""
        return State(self.problem, None, self._places, self.best, self.plan.rows())

    def merge(self, record: Record) -> None:
        """Merge what a search of copies found; with `stop_early` broken samples keep their points."""
        self._competed, self._judge, success = True, None, self.best.success
        self.best.merge(record, ~success if self.plan.stop_early else torch.ones_like(success))

    def go_to(self, best: Record, rows: Rows) -> None:
        """Go to where steps led that were taken elsewhere."""
        self.best, self._judge, self._competed = best, None, True
        self.rows.join([rows])

    # The course of a look.

    def _shaped(self, gradient: Tensor, narrow: bool = False) -> Tensor:
        """Return a gradient in the dtype of x, unless it may stay in bfloat16; 0 where x may not move."""
        gradient = gradient if narrow and may_be_narrow(gradient, self.x) else gradient.to(self.x.dtype)
        if (mask := self.problem.mask) is None:
            return gradient
        return gradient.where(mask if gradient.ndim == self.x.ndim else mask.unsqueeze(1), 0.0)

    def _finite(self, logits: Tensor) -> Tensor | None:
        """Return `finite_rows`; None in a graph whose judge looks for itself."""
        return None if self.stays and self.judge_now.looks else finite_rows(logits)

    def _ranks(self, loss: losses.Loss) -> bool:
        """Return whether points compete by a loss, as it is asked for now."""
        return loss == self.plan.loss and self.aims is self.targets

    def _judged(self, look: L, judge: bool, ranks: bool = False) -> L:
        """Give a look its verdict, whose loss `ranks` it or not; its points compete if `judge`."""
        points, finite = look.x_adv, self._finite(look.logits)
        answers = [getattr(look, name) for name in look.answers]
        value = look.loss if ranks and isinstance(look, ScoredLook) else None
        answer = Answer(points, value, look.logits, answers[-1] if answers else None, finite)
        look.adversarial, look.count, distance = (self.judge_now if judge else self.judge_now.weigh)(answer)
        self._competed |= judge
        if answers:
            answers[-1] = self.best.usable(answers[-1])
            look.x_adv, answers = self._go_on(points, finite, answers)
            vars(look).update(zip(look.answers, answers, strict=True))
        if distance is not None:
            look.distance = distance if look.x_adv is points else self.distance(look.x_adv)
        kept = self._evaluated(judge)
        return look if kept is None else look.take(kept)

    def _go_on(
        self, points: Tensor, finite: Tensor | None, answers: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return where samples go on from, and by what: those that are not `finite` by their last answer."""
        if self.stays:
            return points, answers  # steps of a graph in which there were such logits are taken again
        if finite is not None:
            points, answers = go_on(points, self.x, finite, answers, self.answer)
        self.answer = answers
        return points, answers

    def _evaluated(self, judge: bool = True) -> Tensor | None:
        """Count an evaluation, and drop the samples that it has broken; return int [m], who stays, if any."""
        self.evaluations += 1
        if judge and not self.stays and self.shrinks(self.best.success):
            broken = self._prove()
            if bool(broken.any()):
                return self._drop(broken)
        return None


R = TypeVar("R", bound=Rows, default=Any)
Rule = Callable[[Search[R]], None]
