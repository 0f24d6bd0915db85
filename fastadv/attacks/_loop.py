"""The ascent that gradient attacks with a budget share: restarts, active set, best point, proof."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_count, check_seed
from fastadv.attacks._problem import Problem, StepSize, check_step_size, problem
from fastadv.attacks._result import AttackResult
from fastadv.attacks._trial import Trial
from fastadv.engine import Frozen, freeze
from fastadv.engine.frozen import Model
from fastadv.ops import keep_best_
from fastadv.threat import Threat

State = tuple[Tensor, ...]
# (problem, x_adv, gradient, step_size, state) -> state: moves x_adv in place. The state is tensors [B, ...]
# that the rule carries from step to step, empty at the first; the loop drops the rows of samples that leave.
Rule = Callable[[Problem, Tensor, Tensor, StepSize, State], State]

LONGEST_SEGMENT = 8


def ascend(given: Problem, x_adv: Tensor, gradient: Tensor, step_size: StepSize, state: State) -> State:
    """Steepest ascent in the threat's norm, projected on ball and box."""
    given.threat.step_(x_adv, gradient, given.x, step_size)
    return state


@dataclass(eq=False)
class Record:
    """What is known of each sample.

    `x_adv` is the strongest point so far, `rank` its place in the order of the loss, `success` whether it is
    one. `refuted`: the model as given once denied a success that the search twin saw. `not_finite`: a logit
    was not finite. `largest_gradient`: the largest absolute gradient element so far; NaN where one was.
    """

    x_adv: Tensor
    rank: Tensor
    success: Tensor
    refuted: Tensor
    not_finite: Tensor
    largest_gradient: Tensor

    @classmethod
    def start(cls, x: Tensor) -> "Record":
        zero = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        rank = torch.full_like(
            zero, -torch.inf, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32
        )
        return cls(x.clone(), rank, zero.bool(), zero.bool(), zero.bool(), zero)

    def take(self, index: Tensor) -> "Record":
        return Record(*(value[index] for value in vars(self).values()))

    def put(self, index: Tensor, rows: "Record") -> None:
        for name, value in vars(self).items():
            value[index] = getattr(rows, name)


@dataclass(frozen=True, eq=False)
class Active:
    """The samples still under attack: their places in the batch, and all that goes with them."""

    index: Tensor
    problem: Problem
    step_size: StepSize
    best: Record
    x_adv: Tensor

    def take(self, kept: Tensor) -> "Active":
        return Active(
            self.index[kept],
            self.problem.take(kept),
            _rows(self.step_size, kept),
            self.best.take(kept),
            self.x_adv[kept],
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """How to search. Without `start_counts` the point where a restart begins is never the best point."""

    rule: Rule
    steps: int
    step_size: StepSize
    restarts: int
    random_start: bool
    loss: losses.Loss
    stop_early: bool
    seed: int
    start_counts: bool

    @property
    def one_candidate(self) -> bool:
        """Whether the search has a single candidate, which only the verdict after it has to evaluate."""
        return self.steps == 1 and self.restarts == 1 and not self.start_counts


def run(
    model: Model | Frozen,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    rule: Rule,
    *,
    steps: int,
    step_size: StepSize,
    restarts: int = 1,
    random_start: bool = False,
    targets: Tensor | None = None,
    loss: losses.Loss = "ce",
    stop_early: bool = True,
    seed: int = 0,
    ids: Tensor | None = None,
    start_counts: bool = True,
) -> AttackResult:
    """Ascend `loss` by `steps` moves of `rule`, from x or a random point; keep each sample's best point.

    Each point is evaluated once, the last one too: `steps` gradients and one forward a restart. Restart r > 0
    starts at random draw r. With `stop_early` a sample leaves at its first success.

    The model as given has the last word. A sample that the search took for broken, and the model does not
    confirm, is attacked again: on the model as given, through all steps and restarts. Where more than
    rounding denies a success that the model itself had seen, at x or later, the model gives two answers for
    one x. The result then says so, and is that of an attack without `stop_early`, judged by a fresh verdict.
    """
    with torch.inference_mode(False), torch.no_grad():
        check_count("steps", steps, 0)
        check_count("restarts", restarts, 1)
        check_seed(seed)
        losses.check_loss(loss)
        given = problem(x, y, threat, targets, ids)
        step_size = check_step_size(step_size, len(given.x), given.x.device)
        if steps:
            given.threat.check_step_size(step_size.cpu() if isinstance(step_size, Tensor) else step_size)
        frozen = freeze(model)
        trial = Trial(frozen, given)
        plan = Plan(rule, steps, step_size, restarts, random_start, loss, stop_early, seed, start_counts)
        record = Record.start(trial.problem.x)
        _search(frozen, trial.problem, trial.todo, record, plan)
        logits = trial.verdict(record.x_adv)
        doubtful = (record.success | record.refuted) & ~trial.problem.met(logits)
        if bool(doubtful.any()) or trial.denied(trial.already, logits):
            logits = _search_again(trial, record, plan, doubtful, logits)
        not_finite = record.not_finite | ~record.largest_gradient.isfinite()
        attacked = torch.zeros_like(not_finite).index_fill_(0, trial.todo, steps > 0)
        return trial.finish(
            record.x_adv,
            logits,
            loss,
            not_finite=not_finite,
            zero_gradient=attacked & (record.largest_gradient == 0) & ~not_finite,
        )


def _search_again(trial: Trial, record: Record, plan: Plan, doubtful: Tensor, logits: Tensor) -> Tensor:
    """Attack the doubtful samples on the model as given, without early stop; return the new verdict [B, K].

    All samples take part where the model gives two answers for one x: no early success can then be trusted.
    """
    frozen, index = trial.frozen, doubtful.nonzero().squeeze(1)
    # every success of such a search is one that the model as given has seen
    proved = record.success & (frozen.exact or plan.stop_early)
    if trial.denied(proved | trial.already, logits):
        trial.report_two_answers()
        index = trial.todo
    if frozen.exact and not plan.stop_early:
        return logits
    exact = frozen if frozen.exact else freeze(frozen.model, fold=False)
    again = Record.start(trial.problem.x)
    _search(exact, trial.problem, index, again, replace(plan, stop_early=False))
    if exact is not frozen:
        frozen.forwards += exact.forwards
        frozen.backwards += exact.backwards
    record.put(index, again.take(index))
    logits = trial.verdict(record.x_adv)
    if trial.denied(again.success, logits):
        trial.report_two_answers()
    return logits


def _search(frozen: Frozen, given: Problem, todo: Tensor, record: Record, plan: Plan) -> None:
    """All restarts on the samples `todo` int64 [n]; the rows of `record` are updated."""
    for restart in range(plan.restarts):
        index = todo[~record.success[todo]] if plan.stop_early else todo
        if not len(index):
            return
        part = given if len(index) == len(given.x) else given.take(index)
        if plan.random_start or restart > 0:
            start = frozen.layout(part.threat.random_start(part.x, plan.seed, part.ids, draw=restart))
        else:
            start = part.x.clone()
        active = Active(index, part, _rows(plan.step_size, index), record.take(index), start)
        del part, start
        _ascent(frozen, active, record, plan)


def _ascent(frozen: Frozen, active: Active, record: Record, plan: Plan) -> None:
    """One restart; the rows of `record` are updated."""
    state: State = ()
    gradient: Tensor | None = None
    for step in range(plan.steps + 1):
        now, best = active.problem, active.best
        if step < plan.steps:
            value, logits, gradient = frozen.input_gradient(
                active.x_adv, now.y, plan.loss, now.targets, direction=True
            )
            # keeps NaN and infinity, and stays 0 where every gradient is
            torch.maximum(best.largest_gradient, largest(gradient).flatten(), out=best.largest_gradient)
        elif plan.one_candidate:
            best.x_adv.copy_(active.x_adv)
            break
        else:
            gradient = None
            logits = frozen(active.x_adv)
            value = losses.loss_value(logits, now.y, plan.loss, now.targets)
        finite = logits.isfinite().all(1)
        best.not_finite.logical_or_(~finite)
        if step or plan.start_counts or not plan.steps:
            rank = torch.where(finite, _rank(plan.loss, value, logits, now), torch.nan).to(best.rank.dtype)
            keep_best_(best.x_adv, best.rank, best.success, active.x_adv, rank, now.decided(logits) & finite)
            if plan.stop_early and (step == plan.steps or settles(step, now.x.device)):
                broken = _prove(frozen, now, best)
                if bool(broken.any()):
                    record.put(active.index[broken], best.take(broken))
                    active = active.take(~broken)
                    if not len(active.index):
                        return
                    gradient = None if gradient is None else gradient[~broken]
                    state = tuple(part[~broken] for part in state)
        if gradient is not None:
            state = plan.rule(active.problem, active.x_adv, gradient, active.step_size, state)
    record.put(active.index, active.best)


def largest(gradient: Tensor) -> Tensor:
    """[n, 1, ...] the largest absolute element of each sample; NaN where one is.

    Two reductions are faster than one of the absolute values, which would first have to be stored.
    """
    dims = tuple(range(1, gradient.ndim))
    return torch.maximum(gradient.amax(dims, keepdim=True), -gradient.amin(dims, keepdim=True))


def settles(step: int, device: torch.device) -> bool:
    """Whether broken samples leave after this step.

    On a GPU that waits for the device, so it is done after 1, 2, 4, 8, 16, 24, 32 ... steps alone.
    """
    done = step + 1
    return device.type == "cpu" or done % LONGEST_SEGMENT == 0 or done & (done - 1) == 0


def _rank(loss: losses.Loss, value: Tensor, logits: Tensor, now: Problem) -> Tensor:
    """[n] in the order of the loss.

    Cross-entropy is exactly 0 for all very confident samples. Among those the margin decides, which is < 0.
    """
    if loss != "ce" or now.targets is not None:
        return value
    index = now.y[:, None]
    margin = logits.scatter(1, index, -torch.inf).amax(1) - logits.gather(1, index).squeeze(1)
    return torch.where(value > 0, value, margin)


def _prove(frozen: Frozen, now: Problem, best: Record) -> Tensor:
    """bool [n]: the successes that the model as given confirms. The others become `refuted`."""
    if frozen.exact or not bool(best.success.any()):
        return best.success
    index = best.success.nonzero().squeeze(1)
    confirmed = now.take(index).met(frozen.verdict(best.x_adv[index]))
    best.success[index] = confirmed
    best.refuted[index] |= ~confirmed
    return best.success


def _rows(step_size: StepSize, index: Tensor) -> StepSize:
    return step_size[index] if isinstance(step_size, Tensor) else step_size
