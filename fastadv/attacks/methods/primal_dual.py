"""The game of primal-dual attacks: displacements against the weight of the distance (Matyasko, Chau 2021)."""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks.core import GradientLook, Search
from fastadv.attacks.methods.adam import Moments
from fastadv.attacks.methods.geometry import like, width

# steps of the primal and the dual variables: the first, and the last one over it
STEP, LAST_STEP = 0.1, 0.01
DUAL_STEP, LAST_DUAL_STEP = 0.1, 0.1
# the first weight of the distance over that of the loss, and the least and the inverse of the largest
RATIO, LEAST_RATIO = 0.01, 1e-6
PAST = 0.9  # the share of the past in the mean of weights


class Lagrangian(Moments):
    """The displacement `away` [n, ...] in widths of the box, and numbers [n]."""

    away: Tensor
    dual: Tensor  # the logarithm of the weight of the loss over that of the distance
    share: Tensor  # the mean weight of the distance; that of the loss is the rest


Primal = Callable[[Search[Lagrangian], Tensor, float, int], Tensor]


def primal_dual(
    search: Search[Lagrangian], primal: Primal, *, steps: int, step_size: float, ratio: float,
    loss: losses.Loss | None,
) -> None:  # fmt: skip
    """Descend on share * ||d|| + (1 - share) * softplus(-loss), while the share rises at successes only."""
    # `primal` takes the gradient [n, ...] of softplus(-loss), the length of the step and its number
    rows, unit = search.rows, width(search.threat)
    rows.away = torch.zeros_like(search.x, dtype=torch.promote_types(search.x.dtype, torch.float32))
    rows.dual = search.full(-log(ratio))
    rows.share = torch.sigmoid(-rows.dual)
    points = search.start()
    for step in range(steps):
        look = search.gradient(points, search.problem.margin if loss is None else loss)
        rows.away = primal(search, _gradient(search, look), step_size * LAST_STEP ** (step / steps), step)
        points = (rows.away * unit + search.x).clamp_(*search.threat.box).to(search.x.dtype)
        left = (steps - 1 - step) / max(steps - 1, 1)
        change = DUAL_STEP * (left * (1 - LAST_DUAL_STEP) + LAST_DUAL_STEP)
        rows.dual = rows.dual + torch.where(look.adversarial, -change, change)
        rows.dual.clamp_(log(LEAST_RATIO), -log(LEAST_RATIO))
        rows.share = torch.lerp(torch.sigmoid(-rows.dual), rows.share, PAST)
    search.finish(points)


def _gradient(search: Search[Lagrangian], look: GradientLook) -> Tensor:
    """Return [n, ...], that of softplus(-loss) with respect to displacements in widths of the box."""
    # a loss that is NaN exerts no force
    slope = torch.sigmoid(-look.loss).nan_to_num(0.0) * -width(search.threat)
    return look.gradient.to(search.rows.away.dtype) * like(slope, look.gradient).to(search.rows.away.dtype)


def inside(search: Search[Lagrangian], away: Tensor) -> Tensor:
    """Return the displacements [n, ...], in widths of the box, that are left inside it."""
    unit = width(search.threat)
    return (away * unit + search.x).clamp_(*search.threat.box).sub_(search.x).div_(unit)
