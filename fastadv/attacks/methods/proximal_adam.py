"""Proximal Adam on the weighted sum of a soft hinge of the margin and a distance: where PDPGD explores."""

import math

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks.core import GradientLook, Search
from fastadv.attacks.methods.adam import SECOND_DECAY, Moments, adam
from fastadv.attacks.methods.geometry import cosine, like, shorten_, width

# the first step in widths of the box, and the last one over it
STEP, LAST_STEP = 0.1, 0.01
# the first weight of the distance over that of the hinge; the least and the largest weight
RATIO, EXTREME = 0.01, 1e6
# the first step of the weight's logarithm, or the way that all steps can go where they are few; the last step
DUAL_STEP, DUAL_WAY, LAST_DUAL_STEP = 0.1, 5.0, 0.01
PAST = 0.9  # the share of the past in the mean of weights
# how often the proximal operator is iterated. Few iterations spare coordinates of little curvature, which the
# operator itself would set back to x before their gradient is known
ITERATIONS = 5
# the margin at x in widths of the hinge's bend, so that it does not depend on the scale of the logits
BENDS = 4.0


class Exploration(Moments):
    """`away` [n, ...] is the displacement. One number a sample: `balance`, the logarithm of the weight of the
    distance over that of the hinge; `share`, the mean weight of the distance; `steepest`, the largest element
    of a gradient so far; `bend`, the width of the hinge's bend.
    """

    away: Tensor
    balance: Tensor
    share: Tensor
    steepest: Tensor
    bend: Tensor


def explore(search: Search[Exploration], steps: int, loss: losses.Loss) -> None:
    """Take `steps` steps from x; then `rows.away` is the displacement of the last point.

    Adam leads along the gradient of softplus(-margin), each coordinate in the scale of its own gradients, and
    the proximal operator of the distance, in the metric of Adam, follows (Melchior et al. 2019; Matyasko and
    Chau 2021). The weight of the distance rises at successes and falls elsewhere.
    """
    rows = search.rows
    rows.away = torch.zeros_like(search.x, dtype=torch.promote_types(search.x.dtype, torch.float32))
    rows.balance = torch.full_like(search.best.rank, math.log(RATIO))
    rows.share, rows.steepest = rows.balance.sigmoid(), torch.zeros_like(rows.balance)
    low, high = search.threat.box
    points = search.start()
    for step in range(steps):
        look = search.gradient(points, loss)
        direction = adam(rows, _force(search, look, step), step, 1e-8)
        curvature = (rows.square / (1 - SECOND_DECAY ** (step + 1))).sqrt_().add_(1e-8)
        length = STEP * width(search.threat) * cosine(step, steps, LAST_STEP)
        ahead = direction.mul_(length).add_(rows.away).add_(search.x).clamp_(low, high).sub_(search.x)
        by = length * rows.share / (1 - rows.share)
        metric = curvature / like(ops.largest(curvature), curvature)
        reached = _proximal(search, ahead, metric, like(by / ops.largest(curvature), ahead).to(ahead.dtype))
        points = reached.to(search.x.dtype)
        rows.away = reached - search.x
        change = max(DUAL_STEP, DUAL_WAY / steps) * (
            1 - (1 - LAST_DUAL_STEP / DUAL_STEP) * step / max(steps - 1, 1)
        )
        rows.balance = rows.balance + torch.where(look.adversarial, change, -change)
        rows.balance.clamp_(-math.log(EXTREME), math.log(EXTREME))
        rows.share = torch.lerp(rows.balance.sigmoid(), rows.share, PAST)


def _force(search: Search[Exploration], look: GradientLook, step: int) -> Tensor:
    """Return the gradient of -softplus(-margin), in units of the steepest so far."""
    rows, margin = search.rows, search.problem.margin
    lead = losses.loss_value(look.logits, search.y, margin, search.targets).to(rows.balance)
    if not step:
        rows.bend = (lead.abs() / BENDS).clamp_min(torch.finfo(lead.dtype).tiny)
    rows.steepest = rows.steepest.maximum(ops.largest(look.gradient).to(rows.steepest))
    weight = torch.sigmoid(-lead / rows.bend) / rows.steepest.clamp_min(torch.finfo(lead.dtype).tiny)
    return look.gradient.to(rows.away.dtype) * like(weight, look.gradient).to(rows.away.dtype)


def _proximal(search: Search[Exploration], ahead: Tensor, metric: Tensor, by: Tensor) -> Tensor:
    """Return x + z in the box, ITERATIONS towards argmin <z - ahead, metric (z - ahead)> / 2 + by ||z||."""
    low, high = search.threat.box
    # the iterations in closed form; in L0 too, whose own operator would keep what is there
    if search.threat.norm in ("l1", "l0"):
        shrink = by * torch.expm1(ITERATIONS * torch.log1p(-metric)).neg_() / metric
        away = ahead.abs().sub_(shrink).clamp_min_(0.0).copysign_(ahead)
        return away.add_(search.x).clamp_(low, high)
    away = ahead
    for _ in range(ITERATIONS):
        away = away - metric * (away - ahead)
        reached = shorten_(away, by).add_(search.x).clamp_(low, high)
        away = reached - search.x
    return reached
