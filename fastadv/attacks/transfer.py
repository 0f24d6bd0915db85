"""Attacks that run another: for the least radius at which it succeeds, and on substitutes of the model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from fastadv import ops
from fastadv.attacks import core
from fastadv.attacks.ascents import bim
from fastadv.attacks.core.criterion import outputs_for
from fastadv.attacks.core.problem import check_threat
from fastadv.attacks.methods.bisection import Interval, halve, middle
from fastadv.attacks.methods.claims import claim_flags
from fastadv.attacks.methods.geometry import FAR, farthest, like, width
from fastadv.attacks.methods.inner import InnerAttack, check_attack, merge_result, run_inner
from fastadv.engine import Prepared, prepare
from fastadv.errors import InputError
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
    each in a ball of its own. With Auto-PGD this is the strongest attack known for Linf (AttackBench); with
    fgsm, bim and mim it is the evaluation of Schott et al.

    Args:
        threat: of a norm that the attack takes; the radius is inf, or the largest distance of interest.
        attack: such as `partial(fastadv.attacks.bim, steps=10)`. It is called as attack(model, x, y,
            threat=..., targets=..., ids=...), with one radius for each sample, and with the criterion and the
            mask where there are any. It returns an `AttackResult`, or x_adv alone; of your own each success
            is checked.
        searches: bisections, >= 0; the papers give no number. In L0 they end when no whole number is left
            between.

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
            out = run_inner(attack, search, search.classifier, within, claims=claims)
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


# the scales tried first: the largest coordinate moves by these shares of the box, 1 and more to its edge
SHORT, LONG = 2.0**-8, 2.0**4


class _Scales(Interval):
    unit: Tensor


@core.registered(kind="minimum", knowledge="decision", requires="a substitute", paper="Schott et al. 2018")
@core.takes_common(through="none", scales=2, searches=0)
def transfer(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *,
    source: core.Classifier | Sequence[core.Classifier], attack: InnerAttack, scales: int = 24,
    searches: int = 10, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the smallest multiple, in the box, of a perturbation of a substitute that fools the model.

    The attack runs on each substitute. Each of its perturbations is tried at `scales` lengths, all in one
    batch; between the least that fools the model and the one before, `searches` bisections follow. Only
    decisions of the model are used.

    Args:
        threat: of a norm that the attack takes; the radius is inf, or the largest distance of interest.
        source: the substitutes: one or a sequence of classifiers with the classes of the model. The nearest
            success over all counts. Their passes are not counted.
        attack: such as `partial(fastadv.attacks.bim, steps=10)`; called as attack(source, x, y, threat=...,
            targets=..., ids=...), with the criterion and the mask where there are any. If it is a budget
            attack and the radius is inf, `minimum_radius` finds its perturbations.
        scales: lengths of a perturbation, >= 2, in even ratios from 1/256 to 16, where 1 takes the pixel that
            moves most across the whole box. The paper gives no number.
        searches: bisections, >= 0. The paper gives no number.

    Example:
        >>> source = fa.models.create("softmax", shape=(1, 8, 8), classes=10, seed=1)
        >>> out = fa.attacks.transfer(model, x, y, fa.L2(8), source=source, attack=fa.attacks.bim)
        >>> tuple(out.x_adv.shape)
        (8, 1, 8, 8)

    Source:
        Schott et al. 2018 (arXiv 1805.09190).
    """
    check_threat(threat)
    check_attack(attack)
    several = source if isinstance(source, Sequence | nn.ModuleList) else [source]
    outputs = outputs_for(common.get("criterion"), y)
    sources = [prepare(one, outputs=outputs) for one in several]
    if not sources:
        raise InputError("source: expected a substitute or several, got an empty sequence")
    searched = partial(minimum_radius, attack=attack)

    def rule(search: core.Search[_Scales]) -> None:
        assert search.problem.clean is not None
        _check_classes(sources, search.x.to(search.dtype), search.problem.clean.shape[1])
        for substitute in sources:
            budget = _budget(search)
            try:
                out = run_inner(attack, search, substitute, budget)
            except InputError:  # a budget attack refuses an infinite radius
                if budget.finite:
                    raise
                out = run_inner(searched, search, substitute, budget)
            away = out.x_adv - search.x
            most = like(ops.largest(away), away)
            # the largest coordinate of the unit is as wide as the box
            search.rows.unit = away * torch.where(most > 0, width(threat) / most, 0.0)
            _scale(search)

    def _budget(search: core.Search[_Scales]) -> Threat:
        """Return the caller's threat, for attacks on a substitute; the search itself has no radius."""
        radius = torch.as_tensor(threat.radius, device=search.x.device)
        return threat.with_radius(search.per_sample(radius)) if radius.ndim else threat

    def _scale(search: core.Search[_Scales]) -> None:
        rows = search.rows
        tried = torch.logspace(0, 1, scales, LONG / SHORT, dtype=torch.float64, device="cpu") * SHORT
        tried = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), tried]).to(search.x)
        steps = tried[1:].view(-1, *[1] * (search.x.ndim - 1))
        points = search.x.unsqueeze(1) + steps * rows.unit.unsqueeze(1)
        look = search.decide(points.clamp_(*threat.box))
        first = look.adversarial.to(torch.int64).argmax(1)  # the first of the largest
        rows.low, rows.high = tried[first], tried[first + 1]
        for _ in range(searches):
            points = (search.x + like(middle(rows), search.x) * rows.unit).clamp_(*threat.box)
            halve(rows, search.decide(points).adversarial)

    return core.run(model, x, y, threat, rule, rows=_Scales, minimum=True, **common)


def _check_classes(sources: Sequence[Prepared], x: Tensor, classes: int) -> None:
    for number, substitute in enumerate(sources):
        width = substitute.verdict(x[:1]).shape[1]
        if width != classes:
            which = "" if len(sources) == 1 else f" as number {number}"
            raise InputError(
                f"source: expected a net with the {classes} classes of the model, "
                f"got one with {width}{which}; a label must mean the same to both"
            )
