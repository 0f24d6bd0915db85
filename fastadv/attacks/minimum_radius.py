"""Search over the radius: any attack with a budget becomes one for the minimum norm."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.bim import bim
from fastadv.attacks.methods.bisection import Interval
from fastadv.attacks.methods.claims import claim_flags
from fastadv.attacks.methods.geometry import FAR, farthest, width
from fastadv.attacks.methods.inner import InnerAttack, check_attack, inner_task, merge_result, run_inner
from fastadv.threat import Threat

# the first radius, in widths of the box; of L0, in coordinates
FIRST = {"linf": 1 / 255, "l2": 1.0, "l1": 10.0, "l0": 1.0}
# the most doublings of the first radius where the box has no edge
DOUBLINGS = 30


class _Rows(Interval):
    radius: Tensor
    most: Tensor
    bisections: Tensor


@core.registered(kind="minimum", paper="Schott et al. 2018; Cina et al. 2025")
@core.tested(
    quick={"attack": partial(bim, steps=4, stop_early=False), "searches": 4},
    oracle={"attack": partial(bim, steps=40, loss="margin"), "searches": 10},
)
@core.takes_common(norms=("linf", "l2", "l1", "l0"), searches=0)
def minimum_radius(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, attack: InnerAttack,
    searches: int = 10, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the smallest radius, for each sample, at which an attack with a budget breaks it.

    The radius begins at 1/255 (Linf), 1 (L2) or 10 (L1) widths of the box, or at one coordinate (L0), and
    doubles until the attack breaks the sample, or the ball holds the whole box. Then it is bisected between
    the largest radius that held and the distance of the nearest success. All samples are attacked at once,
    each in a ball of its own. With Auto-PGD it leads AttackBench's published table for Linf, where fmn and
    pdpgd find nearer points in as many passes; with fgsm, bim and mim it is the evaluation of Schott et al.

    Args:
        threat: of a norm that the attack takes; the radius is inf, or the largest distance of interest.
        attack: such as `partial(fastadv.attacks.bim, steps=10)`. It is called as attack(model, x, y,
            threat=..., targets=..., ids=...), with one radius for each sample, and with the criterion and the
            mask where there are any. It returns an `AttackResult`, or x_adv alone; of your own each success
            is checked.
        searches: bisections, >= 0; the papers give no number. In L0 they end when no whole number is left
            between.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> from functools import partial
        >>> bim = partial(fa.attacks.bim, steps=10)
        >>> out = fa.attacks.minimum_radius(model, x, y, fa.Linf(float("inf")), attack=bim)
        >>> bool(out.success.all()), bool((out.distance < 0.3).all())
        (True, True)

    Source:
        Schott et al. 2018 (arXiv 1805.09190); Cinà et al. 2025, "AttackBench" (arXiv 2404.19460).
    """
    check_attack(attack)
    whole, claims = threat.norm == "l0", Counter[str]()
    first = FIRST[threat.norm] * (1 if whole else width(threat))

    def rule(search: core.Search[_Rows]) -> None:
        rows = search.rows
        start = torch.tensor(first, dtype=search.x.dtype, device=search.x.device)
        start, reach = start.clamp_min(torch.finfo(start.dtype).tiny), farthest(search)
        most = torch.where(reach < FAR, reach, reach.minimum(start * 2.0**DOUBLINGS))
        rows.most = most.floor() if whole else most
        rows.radius = start.minimum(rows.most)
        rows.low, rows.high = torch.zeros_like(rows.most), torch.full_like(rows.most, torch.inf)
        rows.bisections = torch.full_like(search.ids, searches)
        while True:
            within = search.threat.with_radius(rows.radius)
            out = run_inner(attack, inner_task(search, within), claims)
            broken = merge_result(search, out)
            rows.bisections = rows.bisections - rows.high.isfinite().to(search.ids)
            high = torch.where(broken, rows.high.minimum(out.distance.to(search.x)), rows.high)
            low = torch.where(broken, rows.low, rows.radius)
            # an attack that held at a radius may yet succeed nearer, at a larger one
            rows.low, rows.high = torch.where(low < high, low, high / 2), high
            grows = high.isinf()
            done = torch.where(grows, rows.radius >= rows.most, rows.bisections <= 0)
            rows.radius = torch.where(grows, (2 * rows.radius).minimum(rows.most), (rows.low + high) / 2)
            if whole:
                rows.low, rows.radius = rows.low.floor(), rows.radius.floor()
                done |= ~grows & (high - rows.low <= 1)
            search.leave(done)
            search.drop_leaving(search.x)

    out = core.run(model, x, y, threat, rule, rows=_Rows, minimum=True, **common)
    return replace(out, flags=(*out.flags, *claim_flags(claims)))
