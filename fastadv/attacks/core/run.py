"""The course of every attack: first verdict, restarts of a rule, proof on the model as given, result."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Unpack

from torch import Tensor

from fastadv import losses
from fastadv._checks import check_count, check_seed
from fastadv.attacks.core.common import Classifier, Common
from fastadv.attacks.core.gradient_rule import GradientRule, GradientRules, follow, rules_of
from fastadv.attacks.core.record import Over, Plan, Record, Rows
from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.core.search import R, Rule, Search
from fastadv.attacks.core.task import Task
from fastadv.attacks.core.trial import Trial
from fastadv.engine.precision import no_gradient
from fastadv.errors import InputError
from fastadv.threat import Threat, Through

OTHERS = (
    "model: expected a task with the x, y and threat that it holds, and no more, got others; hand on "
    "task.within(threat) or task.towards(targets), and what these hold"
)


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

    The model as given has the last word, in one pass of all points. A sample whose success it denies holds,
    and a flag counts such samples.

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
    if not isinstance(model, Task):
        task = Task.of(model, x, y, threat, **common)
        with no_gradient(), task.classifier.in_eval():
            out = run(
                task, task.x, task.y, task.threat, rule, rows=rows, steps=steps, one_way=one_way,
                minimum=minimum, loss=loss, restarts=restarts, stop_early=stop_early, seed=seed,
                gradient=gradient, from_x=from_x,
            )  # fmt: skip
        return task.with_images(out) if isinstance(threat, Through) else out
    task = model
    if common or x is not task.x or y is not task.y or threat is not task.threat:
        raise InputError(OTHERS)
    check_count("restarts", restarts, 1)
    check_seed(seed)
    raised = loss or task.raised(minimum)
    posed = task.within(task.threat.with_radius(inf)) if minimum else task
    rules = _rules_for(posed, gradient)
    followed = partial(follow, rules=rules) if rules else None
    last = posed.classifier.eot > 1 and not minimum
    early = stop_early and not (last or posed.classifier.patient)
    plan = Plan(minimum, raised, early, last, rule, rows, restarts, seed, steps, one_way, followed)
    trial = Trial(posed, from_x)
    record = Record.start(trial.problem.x)
    for search in _attempts(trial, record, plan):
        with suppress(Over):
            rule(search)
            search.close()
    replayed, trial.classifier.replayed = trial.classifier.replayed, None
    loss = loss or task.margin
    if minimum:
        verdict = trial.nearest(record, task.threat)
    else:
        verdict = trial.verdict(record.x_adv)
        trial.check_search(record, verdict, loss, replayed)
    within = task.threat if minimum else None
    return trial.finish(record.x_adv, verdict, loss, **record.findings, within=within)


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


def _attempts(trial: Trial, record: Record, plan: Plan) -> Iterator[Search[Any]]:
    """Yield the search of each restart on the samples to attack, by each way to a success."""
    ways, todo = _ways(trial.problem, plan), trial.todo
    for number in range(ways[0][1].attempts):
        index = todo[~record.success[todo]] if number and plan.stop_early else todo
        if not len(index):
            return
        restart, (task, share) = number // len(ways), ways[number % len(ways)]
        search: Search[Any] = Search(task, index, record, share, restart)
        clean, trial.clean_pass = trial.clean_pass, None
        # for fewer a pass of their own takes less than the way back of all
        search.clean_pass = clean if 2 * len(index) >= len(trial.clean) else None
        yield search


def _ways(task: Task, plan: Plan) -> list[tuple[Task, Plan]]:
    """Return the task towards a success in each way, and the plan that has this way's share of the steps."""
    parts = task.criterion.ways(task.y, task.targets, plan.minimum)
    others = plan.one_way or plan.loss != task.raised(plan.minimum)
    if others or parts == (task.criterion,) or plan.steps < len(parts):
        return [(task, plan)]
    ways, attempts = list[tuple[Task, Plan]](), plan.attempts * len(parts)
    for turn, criterion in enumerate(parts):
        one, steps = replace(task, criterion=criterion), (plan.steps + len(parts) - 1 - turn) // len(parts)
        ways.append((one, replace(plan, attempts=attempts, loss=one.raised(plan.minimum), steps=steps)))
    return ways
