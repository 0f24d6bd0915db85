"""Primal-dual gradient descent, PDGD, and with a proximal step, PDPGD (Matyasko and Chau 2021)."""

from collections.abc import Callable
from math import log
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks import core
from fastadv.attacks.core.checks import check_signed_loss
from fastadv.attacks.methods import primal_dual
from fastadv.attacks.methods.adam import SECOND_DECAY, Moments, adam
from fastadv.attacks.methods.geometry import like, norm, positive, shorten_, unit, width
from fastadv.attacks.methods.primal_dual import DUAL_STEP, LAST_DUAL_STEP, LAST_STEP, PAST, RATIO, STEP
from fastadv.ops._rows import NO_BOX
from fastadv.threat import Threat

# the least weight of the distance over that of the loss, and the inverse of the largest
LEAST_RATIO = 1e-6
EPSILON = 1e-8
# iterations of the proximal operator, and the change, over the length, after which there are no more
ITERATIONS, SETTLED = 5, 0.01


class Lagrangian(Moments):
    """The displacement `away` [n, ...] in widths of the box, and numbers [n]."""

    away: Tensor
    dual: Tensor  # the logarithm of the weight of the loss over that of the distance
    share: Tensor  # the mean weight of the distance; that of the loss is the rest


@core.registered(kind="minimum", paper="Matyasko and Chau 2021")
@core.tested(quick={"steps": 30}, oracle={"steps": 150})
@core.takes_common(norms=("l2",), steps=1)
def pdgd(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 500,
    variant: core.Variant = "fastadv", step_size: float | None = None, weight: float | None = None,
    loss: losses.Loss | None = None, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Minimize weight * ||d||_2 + softplus(-loss(x + d)), by gradient descent on this Lagrangian.

    Adam moves d, which is clipped to the box, with a step that falls to a hundredth of the first. The weight,
    which is the dual variable, moves in its logarithm, rises at successes and falls elsewhere; both weights
    add up to 1, and a moving mean of them counts. What the paper leaves open is as in adv-lib.

    Args:
        threat: L2; the radius is inf or the largest distance of interest, a number or [B].
        steps: gradients for each sample, an integer >= 1; 500 as in adv-lib.
        step_size: the first step, > 0, in units of the least distance of a success so far, at most the width
            of the box; None is 1. In "published" it is in widths of the box, and None is 0.1.
        weight: the first weight of the distance, > 0; None is 0.3. In "published" it is divided by that of
            the loss, and None is 0.01.
        variant: "fastadv", or "published" for the algorithm of the paper; docs/departures.md compares them.
        loss: a name of `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized.
            None is the margin of the criterion.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Matyasko and Chau 2021, "PDPGD: Primal-Dual Proximal Gradient Descent Adversarial Attack" (arXiv
        2106.01538).
    """
    check_signed_loss(loss)
    published = variant == "published"
    step_size = positive("step_size", step_size, STEP if published else FIRST_STEP["l2"])
    weight = positive("weight", weight, RATIO if published else FIRST_WEIGHT["l2"])

    def rule(search: core.Search) -> None:
        _published(search, _descend_both, step_size=step_size, ratio=weight, loss=loss)

    def ours(search: core.Search) -> None:
        primal_dual.primal_dual(
            search,
            primal_dual.descend_with_momentum,
            step_size=step_size,
            last_step=OUR_LAST_STEP["l2"],
            weight=weight,
            loss=loss,
        )

    rows = Lagrangian if published else primal_dual.Displacements
    how: dict[str, Any] = {"steps": steps, "one_way": loss is not None, "minimum": True}
    return core.run(model, x, y, threat, rule if published else ours, rows=rows, **how, **common)


@core.registered(kind="minimum", paper="Matyasko and Chau 2021")
@core.tested(quick={"steps": 40}, oracle={"steps": 100})
@core.takes_common(norms=("linf", "l2", "l1", "l0"), steps=1)
def pdpgd(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 500,
    variant: core.Variant = "fastadv", step_size: float | None = None, weight: float | None = None,
    loss: losses.Loss | None = None, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Minimize weight * ||d|| + softplus(-loss(x + d)): gradient steps on the loss, proximal on the distance.

    Adam moves d along the gradient of the loss with a step that falls to a hundredth of the first. Then d
    approaches, in the metric of Adam and by at most five iterations, the least of weight * ||z|| and the
    squared distance from d (Melchior et al. 2019), always clipped to the box. The weight, which is the dual
    variable, moves as in `pdgd`. In L0 the norm in that step is the sum of `|z_i|^(2/3)`, which adv-lib
    prefers to the count.

    Args:
        threat: ; the radius is inf or the largest distance of interest, a number or [B].
        steps: gradients for each sample, an integer >= 1; 500 as in adv-lib.
        step_size: the first step, > 0, in units of the least distance of a success so far, at most the width
            of the box; in L0 always of that width. None is 1, 3 in L1 and 30 in L0, and in Linf 0.1 where a
            success takes several decisions. Except in Linf it is the
            first of those that refine. In "published" it is in widths of the box, and None is 0.1.
        weight: the first weight of the distance, > 0; None is 0.3, and 0.1 in L1. Except in Linf it is that
            of the steps that refine. In "published" it is divided by that of the loss, and None is 0.01.
        variant: "fastadv", or "published" for the algorithm of the paper; docs/departures.md compares them.
        loss: a name of `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized.
            None is the margin of the criterion.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Matyasko and Chau 2021 (arXiv 2106.01538), as in adv-lib.
    """
    check_signed_loss(loss)
    published = variant == "published"
    usual = step_size is None and threat.norm == "linf"
    step_size = positive("step_size", step_size, STEP if published else FIRST_STEP[threat.norm])
    weight = positive("weight", weight, RATIO if published else FIRST_WEIGHT[threat.norm])

    def rule(search: core.Search) -> None:
        _published(search, _descend, step_size=step_size, ratio=weight, loss=loss)

    how: dict[str, Any] = {"steps": steps, "one_way": loss is not None, "minimum": True}
    if published:
        return core.run(model, x, y, threat, rule, rows=Lagrangian, **how, **common)
    ours = _ours(threat.norm, step_size, SEVERAL if usual else step_size, weight, loss)
    return core.run(model, x, y, threat, ours, rows=primal_dual.Displacements, **how, **common)


Primal = Callable[[core.Search[Lagrangian], Tensor, float, int], Tensor]


def _published(
    search: core.Search[Lagrangian], primal: Primal, *, step_size: float, ratio: float,
    loss: losses.Loss | None,
) -> None:  # fmt: skip
    """Descend on share * ||d|| + (1 - share) * softplus(-loss), while the share rises at successes only."""
    # `primal` takes the gradient [n, ...] of softplus(-loss), the length of the step and its number
    rows, unit, steps = search.rows, width(search.threat), search.steps
    rows.away = torch.zeros_like(search.x)
    rows.dual = search.full(-log(ratio))
    rows.share = torch.sigmoid(-rows.dual)
    points = search.start()
    for step in range(steps):
        look = search.gradient(points, search.problem.margin if loss is None else loss)
        rows.away = primal(search, _gradient(search, look), step_size * LAST_STEP ** (step / steps), step)
        points = (rows.away * unit + search.x).clamp_(*search.threat.box)
        left = (steps - 1 - step) / max(steps - 1, 1)
        change = DUAL_STEP * (left * (1 - LAST_DUAL_STEP) + LAST_DUAL_STEP)
        rows.dual = rows.dual + torch.where(look.adversarial, -change, change)
        rows.dual.clamp_(log(LEAST_RATIO), -log(LEAST_RATIO))
        rows.share = torch.lerp(torch.sigmoid(-rows.dual), rows.share, PAST)
    search.finish(points)


def _gradient(search: core.Search[Lagrangian], look: core.GradientLook) -> Tensor:
    """Return [n, ...], that of softplus(-loss) with respect to displacements in widths of the box."""
    # a loss that is NaN exerts no force
    slope = torch.sigmoid(-look.loss).nan_to_num(0.0) * -width(search.threat)
    return look.gradient * like(slope, look.gradient).to(search.rows.away.dtype)


def _inside(search: core.Search[Lagrangian], away: Tensor) -> Tensor:
    """Return the displacements [n, ...], in widths of the box, that are left inside it."""
    unit = width(search.threat)
    return (away * unit + search.x).clamp_(*search.threat.box).sub_(search.x).div_(unit)


def _descend_both(search: core.Search[Lagrangian], gradient: Tensor, step_size: float, step: int) -> Tensor:
    rows = search.rows
    share = like(rows.share, gradient).to(gradient.dtype)
    slope = share * unit(rows.away) + (1 - share) * gradient
    return _inside(search, rows.away - step_size * adam(rows, slope, step, EPSILON))


def _descend(search: core.Search[Lagrangian], gradient: Tensor, step_size: float, step: int) -> Tensor:
    rows = search.rows
    ahead = _inside(search, rows.away - step_size * adam(rows, gradient, step, EPSILON))
    curvature = (rows.square / (1 - SECOND_DECAY ** (step + 1))).sqrt_().add_(EPSILON)
    largest = ops.largest(curvature)
    metric = curvature / like(largest, curvature)
    by = (rows.share / (1 - rows.share) * step_size).to(ahead.dtype) / largest
    away, settled = ahead, torch.zeros_like(search.ids, dtype=torch.bool)
    for _ in range(ITERATIONS):
        nearer = _inside(search, _proximal(search.threat.norm, away - metric * (away - ahead), by))
        nearer = torch.where(like(settled, away), away, nearer)
        # a length of 0 is settled, too
        settled = ~(norm(nearer - away, 2) > SETTLED * norm(nearer, 2))
        away = nearer
    return away


def _proximal(kind: str, away: Tensor, by: Tensor) -> Tensor:
    """Return argmin over z of ||z - away||_2^2 / 2 + by [n] * ||z||; in L0 the norm is that of L2/3."""
    if kind == "linf":  # what a projection on the ball of the dual norm leaves (Moreau)
        return away - ops.project_l1(away, torch.zeros_like(away), by, NO_BOX)
    if kind == "l2":
        return shorten_(away, by)
    if kind == "l1":
        return away.abs().sub_(like(by, away)).clamp_min_(0.0).copysign_(away)
    return _two_thirds(away.abs(), like(by, away)).copysign_(away)


def _two_thirds(size: Tensor, by: Tensor) -> Tensor:
    """Return argmin over z of (z - size)^2 / 2 + by * z^(2/3); 0 where it has no root."""
    # the largest root t = z^(1/3) of t^4 - size * t + 2 by / 3, by Ferrari and Cardano
    half, third = size.square() / 2, 8 * by / 9
    first = (half + (half.square() - third**3).sqrt()) ** (1 / 3)
    square = first + third / first
    side = square.sqrt()
    root = (side + (2 * size / side - square).sqrt()) / 2
    return (root**3).nan_to_num_(0.0)


# The fastadv variant (docs/departures.md).

FIRST_WEIGHT = {"linf": 0.3, "l2": 0.3, "l1": 0.1, "l0": 0.3}
FIRST_STEP = {"linf": 1.0, "l2": 1.0, "l1": 3.0, "l0": 30.0}
SEVERAL = 0.1  # in Linf, where a success takes several decisions
OUR_LAST_STEP = {"linf": 0.01, "l2": 0.01, "l1": 0.01, "l0": 1.0}
# the share of the steps that explore by proximal Adam; how many at least refine, unless fewer than the last
# number, or than that share, were left to explore
ADAPTIVE = {"l2": 0.6, "l1": 0.5, "l0": 0.6}
REFINING, FEWEST = {"l2": 40, "l0": 100}, {"l2": 12}


def _ours(norm: str, step_size: float, several: float, weight: float, loss: losses.Loss | None) -> core.Rule:
    def rule(search: core.Search) -> None:
        most = int(ADAPTIVE.get(norm, 0.0) * search.steps)
        exploring = min(most, max(search.steps - REFINING.get(norm, 0), FEWEST.get(norm, 0)))
        first = several if search.problem.several else step_size
        primal_dual.primal_dual(
            search, _descend_ours, step_size=first, last_step=OUR_LAST_STEP[norm], weight=weight,
            loss=loss, exploring=exploring,
        )  # fmt: skip

    return rule


def _descend_ours(search: core.Search, force: Tensor, length: Tensor) -> Tensor:
    rows = search.rows
    rows.mean.lerp_(force, 1 - primal_dual.MOMENTUM)
    ahead = torch.addcmul(rows.away, like(length, force).to(force.dtype), rows.mean)
    return _proximal_in_box(search, ahead, (length * rows.weight).to(force.dtype))


def _proximal_in_box(search: core.Search, away: Tensor, by: Tensor) -> Tensor:
    """Return argmin over z of ||z - away||_2^2 / 2 + by * ||z||, for each sample; by [n]."""
    kind = search.threat.norm
    if kind == "l0":
        return _sparse(search, away, by)
    return _proximal(kind, away, by * away[0].numel() if kind == "linf" else by)


def _sparse(search: core.Search, away: Tensor, by: Tensor) -> Tensor:
    """Return it inside the box for L0: the coordinates that gain enough, fewer than before in refining."""
    x = search.x
    further = x + away
    inside = further.clamp(*search.threat.box) - x
    gain = inside * (2 * away - inside)
    worth = gain > like(2 * width(search.threat) * by, gain)
    count = worth.flatten(1).sum(1).to(search.best.rank.dtype)
    if search.rows.refining:
        count = count.minimum(search.best.distance - 1).clamp_min_(0.0)
    return ops.project_l0(further, x, count, search.threat.box).sub_(x)
