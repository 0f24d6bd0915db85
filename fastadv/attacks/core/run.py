"""The course of every attack: first verdict, restarts of a rule, proof on the model as given, result."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_count, check_seed
from fastadv.attacks.core.common import Classifier, Common
from fastadv.attacks.core.gradient_rule import GradientRule, GradientRules, follow, rules_of
from fastadv.attacks.core.points import like
from fastadv.attacks.core.record import Over, Plan, Record, Rows
from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.core.search import R, Rule, Search
from fastadv.attacks.core.task import Task
from fastadv.attacks.core.trial import TWO_ANSWERS, Trial, Verdict
from fastadv.engine.bound import CleanPass
from fastadv.engine.precision import no_gradient
from fastadv.errors import InputError
from fastadv.threat import Threat, Through

OTHERS = (
    "model: expected a task with the x, y and threat that it holds, and no more, got others; hand on "
    "task.within(threat) or task.towards(targets), and what these hold"
)
# factors that lengthen the displacement of a point, in turn, where the model denies that it is a success
OVERSHOOTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def run(
    model: Classifier,
    x: Tensor,
    y: Tensor | None,
    threat: Threat,
    rule: Rule[R],
    *,
    rows: Callable[[], R] = Rows,  # type: ignore[assignment]
    steps: int = 0,
    one_way: bool = False,
    minimum: bool = False,
    loss: losses.Loss | None = None,
    restarts: int = 1,
    stop_early: bool = False,
    seed: int = 0,
    gradient: GradientRules = (),
    from_x: bool = False,
    **common: Unpack[Common],
) -> AttackResult:
    """Run a rule on each sample that the model classifies correctly, and prove each sample's best point.

    A minimum-norm attack searches as if the radius were infinite, because it has to go beyond the nearest
    boundary before it comes back. The radius only decides which successes count.

    The model as given has the last word. Samples whose success it does not confirm are attacked again: on the
    model as given, through all restarts. If the model denies by more than rounding a success that it had seen
    itself, at x or later, it gives two answers for one x. The result then says so, and is that of an attack
    without `stop_early`, judged by a fresh verdict.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]; or the task that
            `takes_common` hands to an attack, with its x, y and threat.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: ball and box in which points must lie.
        rule: a function of a `Search` that looks for points.
        rows: makes what the rule remembers of the samples, `search.rows`: a subclass of `Rows`.
        steps: of a rule that follows gradients and takes as many steps as `search.steps` says, which is its
            share where the criterion may be met in several ways. 0: it has one search for all of them.
        one_way: whether it has one because it follows a loss of its own.
        minimum: whether the success nearest to x is kept. Otherwise successes come before failures, and the
            larger loss before the smaller.
        loss: as in `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized. None
            takes the margin of the criterion.
        restarts: how often the rule runs; run r > 0 starts at random draw r.
        stop_early: whether a sample leaves at its first success.
        seed: of all random numbers, an integer >= 0.
        gradient: rules that make the gradients of `search.gradient`.
        from_x: whether the rule takes its first gradient at x: one pass then gives it and the clean verdict.
        common: the arguments of `Common`.

    Returns:
        An `AttackResult`.

    Raises:
        InputError: what comes with a task is not what it holds.

    Example:
        >>> import fastadv as fa
        >>> def one_random_point(search):
        ...     search.decide(search.start(random_start=True))
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)
        >>> out = fa.attacks.core.run(model, x, y, fa.Linf(0.3), one_random_point)
        >>> tuple(out.x_adv.shape), out.forwards
        ((8, 1, 8, 8), 24)
    """
    again: Any = partial(
        run, rule=rule, rows=rows, steps=steps, one_way=one_way, minimum=minimum, loss=loss,
        restarts=restarts, stop_early=stop_early, seed=seed, gradient=gradient,
    )  # fmt: skip
    if not isinstance(model, Task):
        task = Task.of(model, x, y, threat, **common)
        with no_gradient(), task.classifier.in_eval():
            out: AttackResult = again(task, task.x, task.y, task.threat, from_x=from_x)
        return task.with_images(out) if isinstance(threat, Through) else out
    task = model
    if common or x is not task.x or y is not task.y or threat is not task.threat:
        raise InputError(OTHERS)
    check_count("restarts", restarts, 1)
    check_seed(seed)
    raised: losses.Loss = (task.margin if minimum else task.leading) if loss is None else loss
    posed = task.within(task.threat.with_radius(inf)) if minimum else task
    rules = _rules_for(posed, gradient)
    followed = partial(follow, rules=rules) if rules else None
    last = posed.classifier.eot > 1 and not minimum
    early = stop_early and not last
    plan = Plan(minimum, raised, early, last, rule, rows, restarts, seed, steps, one_way, followed)
    trial = Trial(posed, from_x)
    ending = Minimum(trial, task.threat) if minimum else Budget(trial)
    clean, trial.clean_pass = trial.clean_pass, None
    classifier, loss = trial.classifier, task.margin if loss is None else loss
    while True:
        record, classifier.replayed = Record.start(trial.problem.x), None
        for search in _attempts(trial.problem, trial.todo, record, plan, clean):
            with suppress(Over):
                rule(search)
                search.close()
        verdict = trial.verdict(record.x_adv)
        if ending.holds(record, verdict, loss):
            break
        clean = None  # replayed steps were those of another model: they are taken as they are
    classifier.replayed = None
    verdict = ending.moved(record, verdict)
    doubtful = (record.success | record.refuted) & ~verdict.met
    doubtful &= not trial.draws  # whose next answer would be as good as the last
    if bool(doubtful.any()) or (trial.some_already and trial.denied(trial.already, verdict)):
        verdict = _search_again(ending, record, plan, doubtful, verdict)
    out = ending.result(record, verdict, loss)
    if not (trial.in_one_pass and TWO_ANSWERS in out.flags):
        return out
    # the model may answer otherwise where a gradient is followed: its clean verdict is taken without
    more: AttackResult = again(task, x, y, threat)
    forwards, backwards = more.forwards + out.forwards, more.backwards + out.backwards
    flags = more.flags if TWO_ANSWERS in more.flags else (TWO_ANSWERS, *more.flags)
    return replace(more, forwards=forwards, backwards=backwards, flags=flags)


def _rules_for(task: Task, gradient: GradientRules) -> tuple[GradientRule, ...]:
    """Return the gradient rules, which serve the task."""
    rules = rules_of(gradient)
    if rules and task.through is not None:
        raise InputError(
            f"gradient: expected no rules with {task.through.name}, whose points are no images; "
            "leave them out"
        )
    for rule in rules:
        rule.check(task.x, task.threat)
    return rules


def _attempts(
    task: Task, todo: Tensor, record: Record, plan: Plan, clean: CleanPass | None = None
) -> Iterator[Search[Any]]:
    """Yield the search of each restart on `todo` int64 [n], by each way to a success."""
    ways = _ways(task, plan)
    for number in range(ways[0][1].attempts):
        index = todo[~record.success[todo]] if number and plan.stop_early else todo
        if not len(index):
            return
        restart, way = divmod(number, len(ways))
        search: Search[Any] = Search(ways[way][0], index, record, ways[way][1], restart)
        search.clean_pass, clean = clean, None
        yield search


def _ways(task: Task, plan: Plan) -> list[tuple[Task, Plan]]:
    """Return the task towards a success in each way, and the plan that has this way's share of the steps."""
    default, ways = task.margin if plan.minimum else task.leading, list[tuple[Task, Plan]]()
    parts = task.criterion.ways(task.y, task.targets, plan.minimum)
    if plan.one_way or parts == (task.criterion,) or plan.loss != default or plan.steps < len(parts):
        return [(task, plan)]
    for turn, criterion in enumerate(parts):
        one = replace(task, criterion=criterion)
        steps = (plan.steps + len(parts) - 1 - turn) // len(parts)
        attempts, loss = plan.attempts * len(parts), one.margin if plan.minimum else one.leading
        ways.append((one, replace(plan, attempts=attempts, loss=loss, steps=steps)))
    return ways


@dataclass(frozen=True)
class Budget:
    """How an attack ends that looks for the strongest point of a ball."""

    trial: Trial

    def holds(self, record: Record, verdict: Verdict, loss: losses.Loss) -> bool:
        """Return whether the search was one on the model, by what the model says of its points."""
        return not self.trial.differs(record.x_adv, record.rank, verdict, loss)

    def moved(self, record: Record, verdict: Verdict) -> Verdict:
        """Return the verdict on points that may be moved for it."""
        return verdict

    def result(self, record: Record, verdict: Verdict, loss: losses.Loss) -> AttackResult:
        return self.trial.finish(record.x_adv, verdict, loss, **record.findings)


@dataclass(frozen=True)
class Minimum(Budget):
    """How an attack ends that looks for the success nearest to x; those `within` a threat count."""

    within: Threat

    def holds(self, record: Record, verdict: Verdict, loss: losses.Loss) -> bool:
        return True

    def moved(self, record: Record, verdict: Verdict) -> Verdict:
        return _overshoot(self.trial, record, verdict)

    def result(self, record: Record, verdict: Verdict, loss: losses.Loss) -> AttackResult:
        verdict, broken = _put_back(self.trial, record, verdict, self.within)
        about: dict[str, Any] = {**record.findings, "within": self.within, "broken": broken}
        return self.trial.finish(record.x_adv, verdict, loss, **about)


def _overshoot(trial: Trial, record: Record, verdict: Verdict) -> Verdict:
    """Lengthen the displacement of successes on the boundary, which rounding denies, until it does not."""
    # a fresh verdict counts after each change: no randomized model is asked until it agrees
    task, x = trial.problem, trial.problem.x
    for share in OVERSHOOTS:
        denied = record.success & ~verdict.met
        if not bool(denied.any()):
            break
        further = (record.x_adv + share * (record.x_adv - x)).clamp(*task.threat.box)
        moved = denied & task.threat.contains(further, x) & (further != record.x_adv).flatten(1).any(1)
        if bool(moved.any()):
            record.x_adv[moved] = further[moved]
            verdict = trial.verdict(record.x_adv)
    return verdict


def _search_again(ending: Budget, record: Record, plan: Plan, doubtful: Tensor, verdict: Verdict) -> Verdict:
    """Attack the doubtful samples on the model as given, without early stop; return the new verdict."""
    # all take part where the model gives two answers for one x: no early success can then be trusted
    trial, index = ending.trial, doubtful.nonzero().squeeze(1)
    # every success of such a search is one that the model as given has seen
    proved = record.success & (trial.classifier.exact or plan.stop_early)
    if trial.denied(proved | trial.already, verdict):
        trial.report_two_answers(record.x_adv, verdict)
        index = trial.todo
    exact = trial.classifier.as_given
    if exact is trial.classifier and not plan.stop_early:
        return verdict
    again, patient = Record.start(trial.problem.x), replace(plan, stop_early=False)
    for search in _attempts(replace(trial.problem, classifier=exact), index, again, patient):
        with suppress(Over):
            plan.rule(search)
            search.close()
    record.put(index, again.take(index))
    verdict = ending.moved(record, trial.verdict(record.x_adv))
    if trial.denied(again.success, verdict):
        trial.report_two_answers(record.x_adv, verdict)
    return verdict


def _put_back(trial: Trial, record: Record, verdict: Verdict, within: Threat) -> tuple[Verdict, Tensor]:
    """Put samples that are not broken back to x; return the verdict on what is left, and who is broken."""
    # rows may depend on each other: that changes the verdict on others, of which more may go back in turn
    x = trial.problem.x
    while True:
        broken = verdict.met & trial.attacked & within.contains(record.x_adv, x)
        back = ~broken & (record.x_adv != x).flatten(1).any(1)
        if not bool(back.any()):
            return verdict, broken
        mixes = trial.mixes_rows(record.x_adv, verdict)
        record.x_adv = torch.where(like(back, x), x, record.x_adv)
        if not mixes:
            return verdict, broken
        verdict = trial.verdict(record.x_adv)
