"""The ascent that all gradient attacks with a budget share: restarts, active set, best so far, proof."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_count
from fastadv.attacks._problem import Problem, StepSize, check_step_size, problem
from fastadv.attacks._result import AttackResult
from fastadv.attacks._trial import Trial
from fastadv.engine import Frozen, freeze
from fastadv.engine.frozen import Model
from fastadv.ops import keep_best_
from fastadv.threat import Threat

State = tuple[Tensor, ...]
# (problem, x_adv, gradient, step_size, state) -> state: moves x_adv in place. The state is tensors [B, ...] that the
# rule carries from step to step, empty at the first; the loop drops the rows of samples that leave.
Rule = Callable[[Problem, Tensor, Tensor, StepSize, State], State]

LONGEST_SEGMENT = 8


def ascend(given: Problem, x_adv: Tensor, gradient: Tensor, step_size: StepSize, state: State) -> State:
    """Steepest ascent in the threat's norm, projected on ball and box."""
    given.threat.step_(x_adv, gradient, given.x, step_size)
    return state


@dataclass(eq=False)
class Record:
    """For each sample the strongest point so far and its rank, whether a logit was not finite, and the largest gradient element met."""

    x_adv: Tensor
    rank: Tensor
    success: Tensor
    bad: Tensor
    reach: Tensor

    @classmethod
    def start(cls, x: Tensor) -> "Record":
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        zero = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return cls(x.clone(), torch.full_like(zero, -torch.inf, dtype=dtype), zero.bool(), zero.bool(), zero)

    def take(self, index: Tensor) -> "Record":
        return Record(*(value[index] for value in vars(self).values()))

    def put(self, index: Tensor, rows: "Record") -> None:
        for name, value in vars(self).items():
            value[index] = getattr(rows, name)


@dataclass(frozen=True, eq=False)
class Active:
    """The samples still under attack: their places in the batch, and all that follows them."""

    index: Tensor
    problem: Problem
    step_size: StepSize
    best: Record
    x_adv: Tensor

    def take(self, kept: Tensor) -> "Active":
        step_size = self.step_size[kept] if isinstance(self.step_size, Tensor) else self.step_size
        return Active(
            self.index[kept], self.problem.take(kept), step_size, self.best.take(kept), self.x_adv[kept]
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """What every restart does alike. `sole`: the one step's end is the only candidate, so it needs no look but the final verdict."""

    rule: Rule
    steps: int
    loss: losses.Loss
    stop_early: bool
    keep_start: bool
    sole: bool


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
    keep_start: bool = True,
) -> AttackResult:
    """Ascend `loss` from x, or from a random point of the threat, by `steps` moves of `rule`; keep each sample's best.

    Each point is evaluated once, the last one too: `steps` gradients and one forward a restart. With `stop_early` a
    sample leaves at its first success that the model as given confirms. Restart r > 0 starts at random draw r.
    With `keep_start` off, the start itself is no candidate.
    """
    with torch.inference_mode(False), torch.no_grad():
        check_count("steps", steps, 0)
        check_count("restarts", restarts, 1)
        given = problem(x, y, threat, targets, ids)
        step_size = check_step_size(step_size, len(given.x), given.x.device)
        frozen = freeze(model)
        trial = Trial(frozen, given)
        given = trial.problem
        record = Record.start(given.x)
        plan = Plan(
            rule, steps, loss, stop_early, keep_start, sole=steps == 1 and restarts == 1 and not keep_start
        )
        for restart in range(restarts):
            index = trial.todo[~record.success[trial.todo]] if stop_early else trial.todo
            if not len(index):
                break
            part = given if len(index) == len(given.x) else given.take(index)
            random = random_start or restart > 0
            start = (
                frozen.layout(part.threat.random_start(part.x, seed, part.ids, draw=restart))
                if random
                else part.x.clone()
            )
            size = step_size[index] if isinstance(step_size, Tensor) else step_size
            active = Active(index, part, size, record.take(index), start)
            del part, start
            _ascent(frozen, active, record, plan, last=restart == restarts - 1)
        bad = record.bad | ~record.reach.isfinite()
        attacked = torch.zeros_like(bad).index_fill_(0, trial.todo, steps > 0)
        return trial.finish(record.x_adv, loss, bad, attacked & (record.reach == 0) & ~bad)


def _ascent(frozen: Frozen, active: Active, record: Record, plan: Plan, last: bool) -> None:
    """One restart; writes what it finds to the rows of `record`. After the last step of the last one the final verdict is the proof."""
    state: State = ()
    gradient: Tensor | None = None
    for step in range(plan.steps + 1):
        now, best = active.problem, active.best
        if step < plan.steps:
            value, logits, gradient = frozen.input_gradient(
                active.x_adv, now.y, plan.loss, now.targets, direction=True
            )
            # keeps NaN and infinity, and stays 0 where every gradient is
            torch.maximum(best.reach, largest(gradient).flatten(), out=best.reach)
        elif plan.sole:
            best.x_adv.copy_(active.x_adv)
            break
        else:
            gradient = None
            logits = frozen(active.x_adv)
            value = losses.loss_value(logits, now.y, plan.loss, now.targets)
        finite = logits.isfinite().all(1)
        best.bad.logical_or_(~finite)
        if step or plan.keep_start or not plan.steps:
            rank = torch.where(finite, _rank(plan.loss, value, logits, now), torch.nan).to(best.rank.dtype)
            keep_best_(best.x_adv, best.rank, best.success, active.x_adv, rank, now.decided(logits) & finite)
            if plan.stop_early and (not last if step == plan.steps else settles(step, now.x.device)):
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
    """[n, 1, ...] the largest absolute element of each sample; NaN where one is. Two reductions, for there is no fast one of absolute values."""
    dims = tuple(range(1, gradient.ndim))
    return torch.maximum(gradient.amax(dims, keepdim=True), -gradient.amin(dims, keepdim=True))


def _rank(loss: losses.Loss, value: Tensor, logits: Tensor, now: Problem) -> Tensor:
    """[n] in the order of the loss. Cross-entropy is exactly 0 for every very confident sample: among those the margin decides, which is below 0."""
    if loss != "ce" or now.targets is not None:
        return value
    index = now.y[:, None]
    margin = logits.scatter(1, index, -torch.inf).amax(1) - logits.gather(1, index).squeeze(1)
    return torch.where(value > 0, value, margin)


def settles(step: int, device: torch.device) -> bool:
    """Whether broken samples leave after this step. On a GPU that waits for the device, so it is done in segments of 1, 1, 2, 4, 8, 8 ... steps."""
    done = step + 1
    return device.type == "cpu" or done % LONGEST_SEGMENT == 0 or done & (done - 1) == 0


def _prove(frozen: Frozen, now: Problem, best: Record) -> Tensor:
    """bool [n]: the candidates that the model as given confirms. The others are candidates no longer."""
    if frozen.exact or not bool(best.success.any()):
        return best.success
    index = best.success.nonzero().squeeze(1)
    best.success[index] = now.take(index).met(frozen.verdict(best.x_adv[index]))
    return best.success
