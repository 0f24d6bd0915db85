"""Signs of masked gradients in an evaluation: what its attacks say together, and a look at some samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.autoattack import EOT
from fastadv.attacks.core.common import parameters_of
from fastadv.attacks.core.criterion import WRONG, Criterion, Goal
from fastadv.attacks.core.task import Task
from fastadv.attacks.core.trial import TWO_ANSWERS
from fastadv.attacks.masking import Evidence, Indicators, choose, few_parameters, look
from fastadv.attacks.masking.verdict import BLACK_BOX
from fastadv.engine.module import as_module
from fastadv.evaluation._outcome import NOT_RUN, Part, joined, of_all, wanted_of
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.job import Job
from fastadv.evaluation.named import bound
from fastadv.evaluation.row import Row, worst_draws
from fastadv.outputs import SOFT_LOGITS
from fastadv.text import percent
from fastadv.threat import Named, Threat
from fastadv.threat.through import Own

PART = "indicators"
RAISED = ("zero_gradient", "square", "randomized", "mixed_rows", "bounded_outputs")  # by flags of rows

Ran = tuple[Row, Sequence[Part], Any]  # a row, what its attack did to each batch, and the attack


def indicators(
    job: Job, kept: Parts, rows: Sequence[Row], parts: Sequence[Sequence[Part]], correct: Tensor, ids: Tensor
) -> Indicators:
    """Return the indicators of an evaluation, by the `parts` of each row."""
    chosen = choose(correct)
    known = {"looked_at": ids[chosen], "correct": correct}
    part = kept.kept(PART, known)
    if part is None:
        every = zip(rows, parts, job.attacks.values(), strict=True)
        signs = _looked(job, [one for one in every if not one[0].refused], chosen, correct, ids)
        part = Part({"seconds": torch.zeros(1, device="cpu")}, asdict(signs))
        kept.add(PART, known, part)
    signs = Indicators(**part.notes)
    drawn, eot = worst_draws(rows), _eot(job)
    averaged = eot > 1 or BLACK_BOX in signs.unseen.values()
    if drawn is None or not averaged or "randomized" not in signs.flagged:
        return signs
    one, worst = f"at most {percent(drawn.one_draw)} of one draw", f"{percent(drawn.worst)} worst of"
    randomized = f"Randomized: {one}, {worst} {drawn.count} draws (eot={eot})."
    return replace(signs, lower={**signs.lower, "randomized": 0.0}, remarks=[randomized, *signs.remarks])


def _looked(job: Job, ran: Sequence[Ran], chosen: Tensor, correct: Tensor, ids: Tensor) -> Indicators:
    """Return what attacks and the `chosen` samples say of the threat on which attacks spent most passes."""
    frozen, rows = job.frozen, [row for row, *_ in ran]
    # `criterion` says which samples are right, and those that are bound to attacks what a success is
    asked = [bound(attack, "criterion") for attack in job.attacks.values()]
    goals = {repr(goal): goal for goal in (one.meant_by(frozen.model) for one in asked if one is not None)}
    evidence = [_evidence(*one, job.criterion, goals) for one in ran]
    remarks, main, task = few_parameters(evidence), _main(evidence), None
    if main is not None and main.threat is not None:  # all of that norm count within its radius
        pairs = zip(rows, evidence, strict=True)
        within = [attack.within(main.threat, row.distance) for row, attack in pairs]
        evidence = [attack for attack in within if attack is not None and attack.goal.like(main.goal)]
        task = _task(job, ids, chosen, main.threat, main.goal)
    raised = [name for name in RAISED if _says(rows, name)]
    sought = "zero_gradient" in raised
    if as_module(frozen.source) is None and any(one.startswith(NOT_RUN) for row in rows for one in row.flags):
        raised.remove("zero_gradient")  # which is no sign of a function
    signs = look(
        frozen, task, chosen, evidence, correct, raised=raised, sought=sought, batch_size=job.batch_size
    ).with_flags(raised)
    return replace(signs, remarks=[*remarks, *signs.remarks])


def _task(job: Job, ids: Tensor, chosen: Tensor, threat: Threat, goal: Goal) -> Task | None:
    """Return the task of the samples `chosen` int64 [m] of the `ids` int64 [N]; None of unknown threats."""
    if isinstance(threat, Own):  # a norm of the caller's own, as it was bound to an attack
        given = (bound(attack, "threat") for attack in job.attacks.values())
        own = (one for one in given if isinstance(one, Threat) and one.metric == threat.metric)
        threat = next((one.with_radius(threat.radius) for one in own), threat)
    if isinstance(threat, Named) or not len(chosen):
        return None
    x, y, numbers = next(job.read(ids[chosen], len(chosen)))
    targets = None if goal.targets is None else goal.targets[chosen].to(y.device)
    mask = goal.mask if goal.mask is None or len(goal.mask) == 1 else goal.mask[chosen]
    task = Task.of(
        job.frozen, x, job.labels(y), threat, targets=targets, criterion=goal.criterion, ids=numbers,
        mask=None if mask is None else mask.to(x.device),
    )  # fmt: skip
    return (
        task if task.labeled else task.checked(task.classifier.verdict(x, task.rows), job.frozen.output_shape)
    )


def _eot(job: Job) -> int:
    """Return the most passes over which an attack averages a gradient."""
    passes = (bound(a, "eot") or EOT * (bound(a, "version") == "rand") for a in job.attacks.values())
    return max([1, *map(int, passes)])


def _queries(attack: Any) -> int:
    """Return how many queries an attack may ask of each sample; 0 where it does not say."""
    queries = getattr(parameters_of(attack).get("queries"), "default", 0)  # or what a partial has bound
    return queries if isinstance(queries, int) else 0


def _evidence(
    row: Row, parts: Sequence[Part], attack: Any, judged: Criterion, goals: Mapping[str, Criterion]
) -> Evidence:
    """Return what all batches of one attack say."""
    # The criterion that an attack keeps to itself is not known here.
    wanted, usual = wanted_of(parts), WRONG if judged.outputs == "classes" else judged
    criterion = goals.get(wanted) if wanted else usual
    components = row.components
    # images that were made elsewhere are no search of the model, and none without gradients
    elsewhere = _says([row], "grey_box")
    return Evidence.gathered(
        row.broken & (not elsewhere),
        unmoved=joined(parts, "unmoved") | joined(parts, "failed.attack"),
        held=bool((row.correct & ~row.broken).any()),
        queries=_queries(attack) or row.forwards / max(1, int(row.correct.sum())),
        backwards=row.backwards + elsewhere,
        parts=None if components is None else (components.costs, components.by_any_of),
        unfinished=joined(parts, "unfinished"),
        passes=row.forwards + row.backwards,
        threat=None if criterion is None else row.threat,
        soft=SOFT_LOGITS in row.flags,
        parameters=max((part.notes.get("parameters", 0) for part in parts), default=0),
        goal=Goal(criterion or usual, of_all(parts, "targets"), of_all(parts, "mask")),
    )


def _main(evidence: Sequence[Evidence]) -> Evidence | None:
    """Return one in the threat with most passes; any wrong class, and a finite radius, come first."""
    balls = [(one, one.threat.metric, one.threat.radius) for one in evidence if one.threat is not None]

    def weight(ball: tuple[Evidence, Any, Any]) -> tuple[bool, bool, int]:
        main, metric, radius = ball
        alike = [other for other in balls if other[0].goal.like(main.goal)]
        spent = sum(one.passes for one, *where in alike if where == [metric, radius])
        followed = any(one.gradient for one, *_ in alike)
        return main.goal.whole and followed, math.isfinite(radius), spent

    return max(balls, key=weight, default=(None,))[0]


def _says(rows: Sequence[Row], name: str) -> bool:
    begins = (f"{name}: ", TWO_ANSWERS) if name == "randomized" else f"{name}: "
    return any(flag.startswith(begins) for row in rows for flag in row.flags)
