"""The indicators of a model that is attacked through another gradient, as that of `fastadv.models.bpda`."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.masking import probes
from fastadv.attacks.masking.evidence import Evidence
from fastadv.attacks.masking.indicators import look
from fastadv.attacks.masking.verdict import Indicators
from fastadv.engine import Prepared
from fastadv.engine.replaced import in_words, replaced

LOOKS = 2  # times the passes of one look that this one may take


def look_through(
    classifier: Prepared,
    other: Prepared | None,
    problem: Problem | None,
    chosen: Tensor,
    evidence: Sequence[Evidence],
    right: Tensor,
    *,
    told: Collection[str] = (),
    seed: int = 0,
    **options: Any,
) -> Indicators:
    """Return `look` at a model with the flags `told`, or, where there are any, that at `other`.

    other: a model of the same decisions through which it was attacked, if any. Its indicators say what the
    model itself raised. What Square broke speaks against gradients where a few queries of it break what PGD
    on the other does not.
    """
    own = look(classifier, problem, chosen, evidence, right, seed=seed, **options).with_flags(told)
    if other is None or problem is None or not own.flagged or not own.samples:
        return own
    before = other.asked
    blind = torch.stack([each.blind for each in evidence]).any(0)[chosen]
    draws = rng.derive(seed, "indicators through")
    for broken in (probes.broken_by_pgd, lambda *given: ~probes.broken_by_square(*given)):
        left = problem.take(blind.nonzero().squeeze(1).to(problem.x.device))
        if len(left.x):
            with rng.generators_kept(left.x.device, draws):
                blind = blind.masked_scatter(blind, ~broken(other, left, draws))
    unseen = torch.zeros_like(right).index_fill_(0, chosen[blind], True)
    nothing = torch.zeros_like(right)
    given = [replace(each, unmoved=nothing, blind=each.blind & unseen) for each in evidence]
    options["raised"] = [name for name in own.flagged if name != "zero_gradient"]
    found = look(other, problem, chosen, given, right, seed=seed, **options)
    spent = other.asked[0] - before[0], other.asked[1] - before[1]
    return replace(
        found,
        forwards=own.forwards + spent[0],
        backwards=own.backwards + spent[1],
        through=in_words(replaced(other.model)) or "another model",
        without={name: own.values[name] for name in own.flagged},
    )
