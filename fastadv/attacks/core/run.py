"""The course of every attack: first verdict, restarts of a rule, proof on the model as given, result."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_count, check_flag, check_seed
from fastadv.attacks.core.common import Classifier, Common
from fastadv.attacks.core.criterion import outputs_for
from fastadv.attacks.core.gradient_rule import GradientRules, follow, rules_of
from fastadv.attacks.core.points import like
from fastadv.attacks.core.problem import Problem, problem
from fastadv.attacks.core.record import Over, Plan, Record, Rows
from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.core.search import R, Rule, Search
from fastadv.attacks.core.through import on_parameters
from fastadv.attacks.core.trial import TWO_ANSWERS, Trial, Verdict
from fastadv.engine import Prepared
from fastadv.engine import prepare as prepared
from fastadv.engine.bound import CleanPass
from fastadv.engine.precision import no_gradient
from fastadv.threat import Threat, Through

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
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K].
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: ball and box in which points must lie.
        rule: a function of a `Search` that looks for points.
        rows: makes what the rule remembers of the samples, `search.rows`: a subclass of `Rows`.
        minimum: whether the success nearest to x is kept. Otherwise successes come before failures, and the
            larger loss before the smaller.
        loss: as in `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized. None
            takes the margin of the criterion.
        restarts: how often the rule runs; run r > 0 starts at random draw r.
        stop_early: whether a sample leaves at its first success.
        seed: of all random numbers, an integer >= 0.
        gradient: rules that make the gradients of `search.gradient`.
        from_x: whether the rule takes its first gradient at x. The model as given then gives it and the clean
            verdict in one pass.
        common: the arguments of `Common`.

    Returns:
        An `AttackResult`.

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
    again = partial(
        run, rule=rule, rows=rows, minimum=minimum, loss=loss, restarts=restarts, stop_early=stop_early,
        seed=seed, gradient=gradient,
    )  # fmt: skip
    if isinstance(threat, Through):
        return on_parameters(partial(again, from_x=from_x), model, x, y, threat, gradient=gradient, **common)
    with no_gradient():
        check_count("restarts", restarts, 1)
        check_seed(seed)
        classifier, task = prepare(model, x, y, threat, **common)
        raised: losses.Loss = (task.margin if minimum else task.leading) if loss is None else loss
        loss, within = task.margin if loss is None else loss, task.threat
        if minimum:
            task = replace(task, threat=within.with_radius(inf))
        rules = rules_of(gradient)
        for gradient_rule in rules:
            gradient_rule.check(task.x, task.threat)
        trial = Trial(classifier, task, from_x)
        followed = partial(follow, rules=rules) if rules else None
        plan = Plan(minimum, raised, stop_early, rule, rows, restarts, seed, followed)
        clean, trial.clean_pass = trial.clean_pass, None
        while True:
            record, classifier.replayed = Record.start(trial.problem.x), None
            _search(classifier, trial.problem, trial.todo, record, plan, clean)
            verdict = trial.verdict(record.x_adv)
            if minimum or not trial.hold(record.x_adv, record.rank, verdict, loss):
                break
            clean = None  # replayed steps were those of another model: they are taken as they are
        classifier.replayed = None
        if minimum:
            verdict = _overshoot(trial, record, verdict)
        doubtful = (record.success | record.refuted) & ~verdict.met
        if bool(doubtful.any()) or (trial.some_already and trial.denied(trial.already, verdict)):
            verdict = _search_again(trial, record, plan, doubtful, verdict)
        broken = None
        if minimum:
            verdict, broken = _put_back(trial, record, verdict, within)
        not_finite = record.not_finite | ~(record.largest_gradient < torch.inf)
        out = trial.finish(
            record.x_adv,
            verdict,
            loss,
            not_finite=not_finite,
            zero_gradient=(record.largest_gradient == 0) & ~not_finite,
            within=within if minimum else None,
            broken=broken,
            unfinished=record.unfinished,
        )
    if not (trial.in_one_pass and TWO_ANSWERS in out.flags):
        return out
    # the model may answer otherwise where a gradient is followed: its clean verdict is taken without
    more = again(classifier, x, y, threat, **common)
    forwards, backwards = more.forwards + out.forwards, more.backwards + out.backwards
    flags = more.flags if TWO_ANSWERS in more.flags else (TWO_ANSWERS, *more.flags)
    return replace(more, forwards=forwards, backwards=backwards, flags=flags)


def prepare(
    model: Classifier, x: Tensor, y: Tensor | None, threat: Threat, **common: Unpack[Common]
) -> tuple[Prepared, Problem]:
    arguments: dict[str, Any] = dict(common)
    eot = check_count("eot", arguments.pop("eot", 1), 1)
    freeze = arguments.pop("freeze", None)
    whole = check_flag("whole_batches", arguments.pop("whole_batches", False))
    task = problem(x, y, threat, **arguments)
    classifier = prepared(
        model, eot if eot > 1 else None, freeze=freeze, size=len(task.x) if whole else 0,
        outputs=outputs_for(arguments.get("criterion"), y),
    )  # fmt: skip
    criterion = task.criterion.meant_by(classifier.model)
    return classifier, task if criterion is task.criterion else replace(task, criterion=criterion)


def _search(
    classifier: Prepared, task: Problem, todo: Tensor, record: Record, plan: Plan,
    clean: CleanPass | None = None,
) -> None:  # fmt: skip
    """Do all restarts on `todo` int64 [n]."""
    for restart in range(plan.restarts):
        index = todo[~record.success[todo]] if plan.stop_early and restart else todo
        if not len(index):
            return
        search: Search[Any] = Search(classifier, task, index, record, plan, restart)
        search.clean_pass, clean = clean, None
        try:
            plan.rule(search)
            search.close()
        except Over:
            pass


def _overshoot(trial: Trial, record: Record, verdict: Verdict) -> Verdict:
    """Lengthen the displacement of successes on the boundary, which rounding denies, until it does not."""
    # a fresh verdict counts after each change: no randomized model is asked until it agrees
    problem, x = trial.problem, trial.problem.x
    for share in OVERSHOOTS:
        denied = record.success & ~verdict.met
        if not bool(denied.any()):
            break
        further = (record.x_adv + share * (record.x_adv - x)).clamp(*problem.threat.box)
        moved = denied & problem.threat.contains(further, x) & (further != record.x_adv).flatten(1).any(1)
        if bool(moved.any()):
            record.x_adv[moved] = further[moved]
            verdict = trial.verdict(record.x_adv)
    return verdict


def _search_again(trial: Trial, record: Record, plan: Plan, doubtful: Tensor, verdict: Verdict) -> Verdict:
    """Attack the doubtful samples on the model as given, without early stop; return the new verdict."""
    # all take part where the model gives two answers for one x: no early success can then be trusted
    classifier, index = trial.classifier, doubtful.nonzero().squeeze(1)
    # every success of such a search is one that the model as given has seen
    proved = record.success & (classifier.exact or plan.stop_early)
    if trial.denied(proved | trial.already, verdict):
        trial.report_two_answers(record.x_adv, verdict)
        index = trial.todo
    exact = classifier.as_given
    if exact is classifier and not plan.stop_early:
        return verdict
    again = Record.start(trial.problem.x)
    _search(exact, trial.problem, index, again, replace(plan, stop_early=False))
    record.put(index, again.take(index))
    verdict = trial.verdict(record.x_adv)
    if plan.minimum:
        verdict = _overshoot(trial, record, verdict)
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
