"""Signs of masked gradients in an evaluation: what its attacks say together, and probes of some samples."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv.attacks.core.criterion import ANY_WRONG, WRONG, Criterion, Goal
from fastadv.attacks.core.problem import Problem, problem
from fastadv.attacks.core.trial import TWO_ANSWERS
from fastadv.attacks.masking import Evidence, Indicators, by_gradients_alone, choose, look
from fastadv.attacks.masking.evidence import unguided
from fastadv.attacks.masking.flags import blind, took_gradients
from fastadv.attacks.special.bounded_outputs import SOFT_LOGITS
from fastadv.data._batches import batches
from fastadv.engine import Prepared
from fastadv.evaluation._outcome import Part, of_all, wanted_of
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.named import labels_of
from fastadv.evaluation.row import Row, worst_draws
from fastadv.text import percent
from fastadv.threat import Named, Threat

PART = "indicators"
RAISED = ("zero_gradient", "square", "randomized", "mixed_rows")  # warnings that count whatever their share


def indicators(
    frozen: Prepared, dataset: Dataset[Any], rows: Sequence[Row],
    found: Sequence[Sequence[Part]], correct: Tensor, ids: Tensor, batch_size: int, kept: Parts,
    criterion: Criterion = WRONG, remarks: Sequence[str] = (), eot: int = 1,
    asked: Collection[Criterion] = (),
) -> Indicators:  # fmt: skip
    """Return the indicators of an evaluation, `found` being the parts of each row, with the largest eot."""
    # `criterion` says which samples are right, and those that are `asked` of attacks what a success is
    # at the threat and goal on which attacks spent most passes; all of that norm count within its radius
    goals = {repr(each): each for each in (one.meant_by(frozen.model) for one in asked)}
    evidence = [_evidence(row, parts, criterion, goals) for row, parts in zip(rows, found, strict=True)]
    metrics = {each.threat.metric for each in evidence if each.threat is not None}
    alike = [[each for each in evidence if each.threat and each.threat.metric == one] for one in metrics]
    raised = ["few_parameters"] * any(map(by_gradients_alone, alike))
    main = _main(evidence)
    threat, goal = (None, ANY_WRONG) if main is None else (main.threat, main.goal)
    if threat is not None:
        within = [each.within(threat, row.distance) for row, each in zip(rows, evidence, strict=True)]
        evidence = [each for each in within if each is not None and each.goal.like(goal)]
    passes = sum(row.forwards + row.backwards for row in rows) / frozen.eot
    chosen = choose(evidence, correct, passes)
    raised += [name for name in RAISED if _says(rows, name)]
    known = {"looked_at": ids[chosen], "correct": correct}

    def make() -> Part:
        given = None
        if threat is not None and not isinstance(threat, Named):
            given = _problem(frozen, dataset, ids, chosen, threat, criterion, goal)
        looked = look(frozen, given, chosen, evidence, correct, batch_size=batch_size)
        return Part({"seconds": torch.zeros(1, device="cpu")}, asdict(looked.with_flags(raised)))

    told = Indicators(**kept.get(PART, known, make).told)
    drawn = worst_draws(rows)
    if drawn is not None and eot > 1 and "randomized" in told.flagged:
        one, worst = f"at most {percent(drawn.one_draw)} of one draw", f"{percent(drawn.worst)} worst of"
        remarks = [f"Randomized: {one}, {worst} {drawn.count} draws (eot={eot}).", *remarks]
        told = replace(told, lower={**told.lower, "randomized": 0.0})
    return replace(told, remarks=remarks)


def _evidence(row: Row, parts: Sequence[Part], judged: Criterion, goals: Mapping[str, Criterion]) -> Evidence:
    """Return what all batches of one attack say."""
    # a criterion that an attack keeps to itself is not known here
    told, usual = wanted_of(parts), WRONG if judged.outputs == "classes" else judged
    criterion = goals.get(told) if told else usual
    whole = {name: torch.cat([part[name] for part in parts]) for name in ("unmoved", "failed.attack")}
    costs = None if row.components is None else row.components.costs
    gradient = took_gradients(row.backwards, costs)
    unseeing = torch.full_like(row.broken, not gradient)
    if row.components is not None and gradient:
        unseeing = row.components.by_any_of(blind(row.components.costs))
    return Evidence(
        broken=row.broken,
        blind=row.broken & unseeing,
        unmoved=(whole["unmoved"] | whole["failed.attack"]) & gradient,
        unfinished=torch.cat([part["unfinished"] for part in parts]),
        gradient=gradient,
        passes=row.forwards + row.backwards,
        threat=None if criterion is None else row.threat,
        soft=SOFT_LOGITS in row.flags,
        parameters=max((part.told.get("parameters", 0) for part in parts), default=0),
        unguided=unguided(gradient, costs, bool((row.correct & ~row.broken).any())),
        goal=Goal(criterion or usual, of_all(parts, "targets"), of_all(parts, "mask")),
    )


def _main(evidence: Sequence[Evidence]) -> Evidence | None:
    """Return one in the threat with most passes; any wrong class, and a finite radius, come first."""
    told = [(each, each.threat) for each in evidence if each.threat is not None]

    def weight(one: tuple[Evidence, Threat]) -> tuple[bool, bool, int]:
        goal, ball = one[0].goal, (one[1].metric, one[1].radius)
        followed = any(each.gradient for each, _ in told if each.goal.like(goal))
        alike = (each for each, threat in told if (threat.metric, threat.radius) == ball)
        spent = sum(each.passes for each in alike if each.goal.like(goal))
        return goal.whole and followed, math.isfinite(one[1].radius), spent

    return max(told, key=weight, default=(None, None))[0]


def _problem(
    frozen: Prepared, dataset: Dataset[Any], ids: Tensor, chosen: Tensor, threat: Threat,
    judged: Criterion, goal: Goal,
) -> Problem | None:  # fmt: skip
    """Return the problem of the samples `chosen` int64 [m] of the `ids` int64 [N]."""
    if not len(chosen):
        return None
    labels = labels_of(judged)
    read = next(batches(dataset, len(chosen), order=ids[chosen], box=threat.box, labels=labels))
    x, y, numbers = (each.to(frozen.device) for each in read)
    known = judged.labels("dataset", None if y.shape[1:] == (0,) else y, len(y), y.device)
    targets = None if goal.targets is None else goal.targets[chosen].to(y.device)
    mask = goal.mask if goal.mask is None or len(goal.mask) == 1 else goal.mask[chosen]
    made = problem(
        x, known, threat, targets=targets, criterion=goal.criterion, ids=numbers,
        mask=None if mask is None else mask.to(x.device),
    )  # fmt: skip
    frozen.asks_for(numbers)
    return made if made.labeled else made.checked(frozen.verdict(x), frozen.output_shape)


def _says(rows: Sequence[Row], name: str) -> bool:
    begins = (f"{name}: ", TWO_ANSWERS) if name == "randomized" else f"{name}: "
    return any(flag.startswith(begins) for row in rows for flag in row.flags)
