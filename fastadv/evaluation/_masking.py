"""Signs of masked gradients in an evaluation: what its attacks say together, and a look at some samples."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from fastadv.attacks.autoattack import EOT
from fastadv.attacks.core.common import parameters_of
from fastadv.attacks.core.task import Task
from fastadv.attacks.core.trial import TWO_ANSWERS
from fastadv.attacks.masking import Evidence, Indicators, choose, look
from fastadv.attacks.masking.evidence import FEW, FEW_PARAMETERS
from fastadv.attacks.masking.flags import SIGNS, Cost
from fastadv.attacks.masking.verdict import BLACK_BOX
from fastadv.engine.module import as_module
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.row import Group, Row, groups, worst_draws
from fastadv.measure.bound import Attack, bound, threat_of
from fastadv.measure.job import Job
from fastadv.measure.outcome import NOT_RUN, Part, joined
from fastadv.outputs import SOFT_LOGITS
from fastadv.text import percent
from fastadv.threat import Named, Threat

PART = "indicators"


def indicators(
    job: Job, kept: Parts, rows: Sequence[Row], parts: Sequence[Sequence[Part]], correct: Tensor, ids: Tensor
) -> Indicators:
    """Return the indicators of an evaluation, by the `parts` of each row."""
    chosen = choose(correct)
    known = {"looked_at": ids[chosen], "correct": correct}
    part = kept.kept(PART, known)
    if part is None:
        ran = {row.name: own for row, own in zip(rows, parts, strict=True)}
        signs = _signs(job, [row for row in rows if not row.refused], ran, chosen, correct, ids)
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


def _signs(
    job: Job, rows: Sequence[Row], parts: Mapping[str, Sequence[Part]], chosen: Tensor, correct: Tensor,
    ids: Tensor,
) -> Indicators:  # fmt: skip
    """Return what attacks and the `chosen` samples say of the threat on which attacks spent most passes."""
    # images that were made elsewhere are no search of the model
    searches = [row for row in rows if not _says([row], "grey_box: ")]
    main = max(groups(searches), key=_weight, default=None)
    task, evidence = None, list[Evidence]()
    if main is not None:  # all of that norm count within its radius
        task = _task(job, ids, chosen, main.threat)
        # of a map's few parameters a search without gradients may see more
        alike = [row for row in main.same(searches) if row.backwards or not _parameters(parts[row.name])]
        evidence = [_evidence(row, parts[row.name], job.attacks[row.name], main) for row in alike]
    raised = {name for name in SIGNS if _says(rows, f"{name}: ")}
    raised |= {"randomized"} if _says(rows, TWO_ANSWERS) else set()
    if as_module(job.frozen.source) is None and _says(rows, NOT_RUN):
        raised.discard("zero_gradient")  # which is no sign of a function
    signs = look(job.frozen, task, chosen, evidence, correct, raised=raised, batch_size=job.batch_size)
    of_maps = [
        (row.threat.metric, row.backwards > 0)
        for row in searches
        if row.threat is not None and 0 < _parameters(parts[row.name]) <= FEW
    ]
    by_gradients_alone = any((metric, False) not in of_maps for metric, _ in of_maps)
    return replace(signs, remarks=[*[FEW_PARAMETERS] * by_gradients_alone, *signs.remarks])


def _says(rows: Sequence[Row], text: str) -> bool:
    """Return whether a flag of some row begins so."""
    return any(flag.startswith(text) for row in rows for flag in row.flags)


def _weight(group: Group) -> tuple[bool, bool, int]:
    """Return what makes a threat the main one: any wrong class and gradients, a radius, most passes."""
    followed = group.whole and any(row.backwards for row in group.rows)
    return followed, not group.unlimited, sum(row.forwards + row.backwards for row in group.rows)


def _task(job: Job, ids: Tensor, chosen: Tensor, threat: Threat | None) -> Task | None:
    """Return the task of the samples `chosen` int64 [m] of the `ids` int64 [N]; None of maps and unknowns."""
    if threat is not None:  # what a row keeps of a norm of the caller's own knows no steps
        known = (threat_of(attack) for attack in job.attacks.values())
        alike = (one.with_radius(threat.radius) for one in known if one and one.metric == threat.metric)
        threat = next(alike, threat)
    if threat is None or isinstance(threat, Named) or not len(chosen):
        return None
    x, y, numbers = next(job.read(ids[chosen], len(chosen)))
    task = Task.of(job.frozen, x, job.labels(y), threat, criterion=job.criterion, ids=numbers)
    if task.labeled:
        return task
    return task.checked(task.classifier.verdict(x, task.rows), job.frozen.output_shape)


def _evidence(row: Row, parts: Sequence[Part], attack: Attack, group: Group) -> Evidence:
    """Return what all batches of one attack say, within the radius of a group."""
    right, queries = int(row.correct.sum()), getattr(parameters_of(attack).get("queries"), "default", 0)
    # a search that ends early asked less than it may
    forwards = queries * right if isinstance(queries, int) and queries else row.forwards
    whole = Cost(right, int(row.broken.sum()), forwards, row.backwards, row.seconds)
    evidence = Evidence(
        row.broken,
        unmoved=joined(parts, "unmoved") | joined(parts, "failed.attack"),
        unfinished=joined(parts, "unfinished"),
        costs=[whole] if row.components is None else [*row.components.costs.values()],
        soft=SOFT_LOGITS in row.flags,
    )
    if group.threat is None or row.threat is None:
        return evidence
    return evidence.within(group.threat, row.distance, row.threat.radius)


def _parameters(parts: Sequence[Part]) -> int:
    return max((part.notes.get("parameters", 0) for part in parts), default=0)


def _eot(job: Job) -> int:
    """Return the most passes over which an attack averages a gradient."""
    passes = (bound(a, "eot") or EOT * (bound(a, "version") == "rand") for a in job.attacks.values())
    return max([1, *map(int, passes)])
