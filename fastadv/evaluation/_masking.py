"""Signs of masked gradients in an evaluation: what its attacks say together, and probes of some samples."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv.attacks.core.criterion import WRONG, Criterion
from fastadv.attacks.core.problem import Problem, problem
from fastadv.attacks.core.trial import TWO_ANSWERS
from fastadv.attacks.masking import Evidence, Indicators, by_gradients_alone, choose, look
from fastadv.attacks.methods.flags import blind, took_gradients
from fastadv.attacks.special.soft_logits import SOFT_LOGITS
from fastadv.data._batches import batches
from fastadv.engine import Prepared
from fastadv.evaluation._outcome import Part
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.draws import Draws
from fastadv.evaluation.named import labels_of
from fastadv.evaluation.row import Row
from fastadv.text import percent
from fastadv.threat import Named, Threat

PART = "indicators"
RAISED = ("zero_gradient", "square", "randomized", "mixed_rows")  # warnings that count whatever their share


def indicators(
    frozen: Prepared, dataset: Dataset[Any], rows: Sequence[Row],
    found: Sequence[Sequence[Part]], correct: Tensor, ids: Tensor, batch_size: int, kept: Parts,
    criterion: Criterion = WRONG, remarks: Sequence[str] = (), eot: int = 1,
) -> Indicators:  # fmt: skip
    """Return the indicators of an evaluation, `found` being the parts of each row, with the largest eot."""
    # at the threat on which attacks spent most passes; all of that norm count within its radius
    evidence = [_evidence(row, parts) for row, parts in zip(rows, found, strict=True)]
    norms = {each.threat.norm for each in evidence if each.threat is not None}
    alike = [[each for each in evidence if each.threat and each.threat.norm == norm] for norm in norms]
    raised = ["few_parameters"] * any(map(by_gradients_alone, alike))
    threat = _main(evidence)
    if threat is not None:
        within = [each.within(threat, row.distance) for row, each in zip(rows, evidence, strict=True)]
        evidence = [each for each in within if each is not None]
    passes = sum(row.forwards + row.backwards for row in rows) / frozen.eot
    chosen = choose(evidence, correct, passes)
    raised += [name for name in RAISED if _says(rows, name)]
    known = {"looked_at": ids[chosen], "correct": correct}

    def make() -> Part:
        given = None
        if threat is not None and not isinstance(threat, Named):
            given = _problem(frozen, dataset, ids[chosen], threat, criterion)
        looked = look(frozen, given, chosen, evidence, correct, batch_size=batch_size)
        return Part({"seconds": torch.zeros(1, device="cpu")}, asdict(looked.with_flags(raised)))

    told = Indicators(**kept.get(PART, known, make).told)
    drawn = [row.draws for row in rows if row.draws is not None]
    if drawn and eot > 1 and "randomized" in told.flagged:
        share = f"{percent(Draws.together(drawn).one_draw)} of one draw"
        remarks = [f"Randomized: {share} ({drawn[0].count} draws, eot={eot}).", *remarks]
        told = replace(told, lower={**told.lower, "randomized": 0.0})
    return replace(told, remarks=remarks)


def _evidence(row: Row, parts: Sequence[Part]) -> Evidence:
    """Return what all batches of one attack say."""
    whole = {name: torch.cat([part[name] for part in parts]) for name in ("unmoved", "failed.attack")}
    gradient = took_gradients(row.backwards, None if row.components is None else row.components.costs)
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
        threat=row.threat,
        soft=SOFT_LOGITS in row.flags,
        parameters=max((part.told.get("parameters", 0) for part in parts), default=0),
    )


def _main(evidence: Sequence[Evidence]) -> Threat | None:
    """Return the threat with most passes; one of a finite radius where there is any."""
    spent: dict[tuple[Any, ...], int] = {}
    threats: dict[tuple[Any, ...], Threat] = {}
    for each in evidence:
        if each.threat is not None:
            key = (each.threat.norm, each.threat.radius, each.threat.box)
            spent[key] = spent.get(key, 0) + each.passes
            threats[key] = each.threat
    if not spent:
        return None
    return threats[max(spent, key=lambda key: (math.isfinite(key[1]), spent[key]))]


def _problem(
    frozen: Prepared, dataset: Dataset[Any], places: Tensor, threat: Threat, criterion: Criterion
) -> Problem | None:
    if not len(places):
        return None
    labels = labels_of(criterion)
    read = next(batches(dataset, len(places), order=places, box=threat.box, labels=labels))
    x, y, ids = (each.to(frozen.device) for each in read)
    return problem(x, criterion.labels("dataset", y, len(y), y.device), threat, ids=ids)


def _says(rows: Sequence[Row], name: str) -> bool:
    begins = (f"{name}: ", TWO_ANSWERS) if name == "randomized" else f"{name}: "
    return any(flag.startswith(begins) for row in rows for flag in row.flags)
