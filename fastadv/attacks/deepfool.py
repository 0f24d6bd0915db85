"""DeepFool (Moosavi-Dezfooli et al. 2016) and SuperDeepFool (Abdolahpourrostami et al. 2024)."""

from math import inf
from typing import Unpack

import torch
from torch import Tensor

from fastadv._checks import check_number
from fastadv.attacks import core
from fastadv.attacks.core.record import Over
from fastadv.attacks.methods.bisection import Interval, halve, middle
from fastadv.attacks.methods.geometry import like
from fastadv.attacks.methods.hyperplane import beyond, largest_others, nearest_boundary, steepest
from fastadv.threat import Threat


@core.registered(needs="classes", kind="minimum", paper="Moosavi-Dezfooli et al. 2016")
@core.tested(quick={"steps": 10}, oracle={"steps": 50})
@core.takes_common(norms=("linf", "l2"), steps=1, candidates=1)
def deepfool(
    model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *, steps: int = 50,
    candidates: int | None = 10, overshoot: float = 0.02, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Minimize ||z - x|| over adversarial z in the box, by projections onto linearized class boundaries.

    At each step the boundaries between the label and its rivals are taken for hyperplanes. z moves to the
    nearest one and beyond it by the share `overshoot`, and is clipped to the box, until the decision changes.
    With targets or a criterion, the one boundary is where its margin is zero.

    Args:
        threat: Linf or L2; the radius is inf or the largest distance of interest, a number or [B].
        steps: the most projections, >= 1; 50 as in the authors' code. The paper continues until a success.
        candidates: how many other classes, those with the largest logits, are rivals, >= 1; None is all. Each
            costs a backward pass at each step. The authors' code has nine.
        overshoot: the share by which each step goes beyond the boundary, >= 0.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.deepfool(model, x, y, fa.L2(float("inf")))
        >>> bool(out.success.all()), bool((out.distance < 2).all())
        (True, True)

    Source:
        Moosavi-Dezfooli et al. 2016, "DeepFool" (arXiv 1511.04599), algorithm 2; section 3.3 for Linf.
    """
    check_number("overshoot", overshoot, 0)

    def rule(search: core.Search) -> None:
        def rivals(logits: Tensor) -> Tensor:
            return largest_others(logits, search.y, candidates)

        points = search.x
        for _ in range(steps):
            near = nearest_boundary(search, points, rivals)
            search.leave(near.look.adversarial)
            points = beyond(near, threat, overshoot).clamp_(*threat.box)
        search.finish(points)

    return core.run(model, x, y, threat, rule, steps=steps, minimum=True, **common)


# a sample stops where a success is not nearer than the last by this factor
NEARER = 0.99


class _Rows(Interval):
    projected: Tensor
    shortest: Tensor
    far: Tensor


@core.registered(needs="classes", kind="minimum", paper="Abdolahpourrostami et al. 2024")
@core.tested(quick={"steps": 15}, oracle={"steps": 50})
@core.takes_common(norms=("l2",), steps=1, candidates=1, searches=0)
def superdeepfool(
    model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *, steps: int = 100,
    candidates: int | None = 10, overshoot: float = 0.02, searches: int = 10, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the success nearest to x in L2, by DeepFool and projections of its perturbation onto the normal.

    DeepFool moves z from x across the boundary. There the perturbation z - x is projected onto the normal w
    of the boundary that was crossed: z <- x + <z - x, w> w / ||w||^2, clipped to the box. This makes it
    orthogonal to the boundary, as the nearest one is. If z is then no success any more, DeepFool goes on from
    there; otherwise it is drawn towards x by bisection. The paper calls this SDF(∞, 1). With targets or a
    criterion, the one boundary is where its margin is zero.

    Args:
        threat: ; the radius is inf or the largest distance of interest, a number or [B].
        steps: the most steps of DeepFool and projections together, >= 1. The paper continues until a
            projection is a success, most often within 20.
        candidates: how many other classes, those with the largest logits, are rivals, >= 1; None is all. Each
            costs a backward pass at each step.
        overshoot: the share by which each step of DeepFool goes beyond the boundary, >= 0.
        searches: bisections between x and the nearest success at the end, >= 0; 10 as in adv-lib.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Abdolahpourrostami, Abroshan, Moosavi-Dezfooli 2024, "SuperDeepFool: a new fast and accurate minimal
        adversarial attack" (arXiv 2303.12481), algorithm 2.
    """
    check_number("overshoot", overshoot, 0)

    def rule(search: core.Search[_Rows]) -> None:
        # samples leave the other search at their last projection, and come back for the end
        other = search.beside()
        try:
            turns(other)
            other.close()
        except Over:
            pass
        _draw_near(search, searches)

    def turns(search: core.Search[_Rows]) -> None:
        rows, points = search.rows, search.x
        rows.projected = torch.zeros_like(search.ids, dtype=torch.bool)
        rows.shortest = search.full(inf)
        for _ in range(steps):
            near = nearest_boundary(
                search, points, lambda logits: largest_others(logits, search.y, candidates), crossed=True
            )
            met, length = near.look.adversarial, near.look.distance
            search.leave(met & (rows.projected | ~(length < NEARER * rows.shortest)))
            rows.shortest = torch.where(met, length, rows.shortest)
            points, x = near.look.x_adv, search.x
            way = steepest(near.normal, near.size, threat.order)
            projected = x + like((way * (points - x)).flatten(1).sum(1), way) * way
            points = torch.where(like(met, x), projected, beyond(near, threat, overshoot))
            points = points.clamp_(*threat.box)
            rows.projected = met
        search.finish(points)

    return core.run(model, x, y, threat, rule, rows=_Rows, steps=steps, minimum=True, **common)


def _draw_near(search: core.Search[_Rows], searches: int) -> None:
    """Bisect between x and the nearest success of each sample."""
    rows = search.rows
    search.leave(~search.best.success)
    rows.far = search.best.x_adv.clone()
    rows.low, rows.high = search.full(0.0), search.full(1.0)
    for _ in range(searches):
        share = like(middle(rows).to(rows.far.dtype), rows.far)
        look = search.decide(search.x + share * (rows.far - search.x))
        halve(rows, look.adversarial)
