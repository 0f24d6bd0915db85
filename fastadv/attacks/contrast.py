"""Contrast reduction: interpolates towards a uniform gray image (Rauber et al. 2017)."""

from math import inf
from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.core.problem import check_finite_box
from fastadv.attacks.methods.bisection import Interval, halve, middle
from fastadv.attacks.methods.noise import bracket
from fastadv.threat import Threat


class _Rows(Interval):
    away: Tensor


@core.registered(
    knowledge="decision", kind="minimum", paper="Rauber et al. 2017", tolerance=inf
)  # it looks in one direction alone
@core.takes_common(norms=("l2", "linf"), levels=1, searches=0)
def contrast(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    levels: int = 10,
    searches: int = 10,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the least loss of contrast that changes the decision.

    x is mixed with one gray, the middle of the box. Of `levels` shares, evenly spaced up to gray
    alone, the first success is taken; bisection between it and the share before finds the least. The attack
    looks along this line only, and is a check of a model rather than a measure of its robustness.

    Args:
        threat: L2 or Linf with a finite box; the radius is inf, or the largest distance of interest.
        levels: shares that pass the model at once, an integer >= 1.
        searches: bisections, >= 0; levels + searches samples pass the model for each image. The authors'
            foolbox has 1,000 levels and no bisections.

    Source:
        Rauber et al. 2017, "Foolbox" (arXiv 1707.04131).
    """
    check_finite_box("contrast", threat)
    low, high = threat.box
    level = low + 0.5 * (high - low)

    def rule(search: core.Search[_Rows]) -> None:
        rows, x = search.rows, search.x
        rows.away = search.problem.masked(torch.full_like(x, level)) - x

        def met(shares: Tensor) -> Tensor:
            steps = torch.einsum("nc,n...->nc...", shares.to(rows.away.dtype), rows.away)
            return search.decide(search.x.unsqueeze(1) + steps).adversarial

        none = search.full(0.0)
        shares = none[:, None] + torch.arange(1, levels + 1, device=x.device) / levels
        rows.low, high = bracket(none, shares, met(shares))
        rows.high = high.clamp_max(1)
        search.leave(high.isinf())
        for _ in range(searches):
            halve(rows, met(middle(rows)[:, None]).squeeze(1))

    return core.run(model, x, y, threat, rule, rows=_Rows, minimum=True, **common)
