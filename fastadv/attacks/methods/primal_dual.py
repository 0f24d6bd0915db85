"""What this library changes of primal-dual attacks (`pdpgd.py`): force, weight and steps."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks.core import WRONG, GradientLook, Search
from fastadv.attacks.methods.adam import SECOND_DECAY, Moments, adam
from fastadv.attacks.methods.geometry import cosine, like, norm, shorten_, unit, width

# Where PDPGD explores: proximal Adam on the weighted sum of a soft hinge of the margin and a distance.

# the first step in widths of the box, and the last one over it
STEP, LAST_STEP = 0.1, 0.01
# the first weight of the distance over that of the hinge; the least and the largest weight
RATIO, EXTREME = 0.01, 1e6
# the first step of the weight's logarithm, or the way that all steps can go where they are few; the last step
DUAL_STEP, DUAL_WAY, LAST_EXPLORING_STEP = 0.1, 5.0, 0.01
PAST = 0.9  # the share of the past in the mean of weights
# Iterations of the proximal operator. Few spare coordinates of little curvature, which the
# operator itself would set back to x before their gradient is known
ITERATIONS = 5
# the margin at x in widths of the hinge's bend, so that it does not depend on the scale of the logits
BENDS = 4.0


class Exploration(Moments):
    """What `primal_dual` knows of the samples besides their displacement `away` [n, ...]."""

    away: Tensor
    balance: Tensor  # [n], the logarithm of the distance's weight over the hinge's
    share: Tensor  # its mean weight
    steepest: Tensor  # the largest element of a gradient
    bend: Tensor  # the hinge's width


def explore(search: Search[Exploration], steps: int, loss: losses.Loss) -> None:
    """Take `steps` steps of Adam and the proximal operator (Melchior et al. 2019) to the last `rows.away`."""
    rows = search.rows
    rows.away = torch.zeros_like(search.x)
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
        points, rows.away = reached, reached - search.x
        change = max(DUAL_STEP, DUAL_WAY / steps) * (
            1 - (1 - LAST_EXPLORING_STEP / DUAL_STEP) * step / max(steps - 1, 1)
        )
        rows.balance = rows.balance + torch.where(look.adversarial, change, -change).to(rows.balance)
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
    return look.gradient * like(weight, look.gradient).to(rows.away.dtype)


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


# the share of the steps that look for the right place; the others refine what they found
EXPLORING = 0.3
MOMENTUM = 0.5
LAST_DUAL_STEP = 0.1  # the last step of the weight's logarithm over the first


class Displacements(Exploration):
    """`away` [n, ...]; the `unit` of steps and the `weight` of the distance [n]."""

    unit: Tensor
    weight: Tensor
    refining: bool


def primal_dual(
    search: Search[Displacements], descend: Callable[[Search, Tensor, Tensor], Tensor], *,
    step_size: float, last_step: float, weight: float, loss: losses.Loss | None, exploring: int = 0,
) -> None:  # fmt: skip
    """Descend on weight * distance - loss, while the weight rises at successes and falls elsewhere."""
    # steps are in units of the least distance of a success so far, or of the box's width, as always in L0;
    # there alone a success exerts a force
    rows, sparse = search.rows, search.threat.norm == "l0"
    points, steps = search.start(), search.steps
    rows.unit = torch.full_like(search.best.rank, width(search.threat))
    rows.away = torch.zeros_like(search.x)
    if exploring:
        explore(search, exploring, search.problem.margin if loss is None else loss)
        points = torch.where(like(search.best.success, search.x), search.best.x_adv, search.x + rows.away)
        rows.away = points - search.x
        if not sparse:
            rows.unit = torch.where(search.best.success, rows.unit.minimum(search.best.distance), rows.unit)
        steps -= exploring
    rows.mean = torch.zeros_like(rows.away)
    rows.weight = search.full(weight)
    for step in range(steps):
        rows.refining = exploring > 0 or step >= EXPLORING * steps
        look = search.gradient(points, _leading(search) if loss is None else loss)
        force = _sized(look.gradient, search.threat.norm)
        if not sparse:
            force.masked_fill_(like(look.adversarial, force), 0.0)
            rows.unit = torch.where(look.adversarial, rows.unit.minimum(look.distance), rows.unit)
        away = descend(search, force, step_size * cosine(step, steps, last_step) * rows.unit)
        reached = away.add_(search.x).clamp_(*search.threat.box)
        points, rows.away = reached, reached - search.x
        change = math.exp(max(DUAL_STEP, DUAL_WAY / steps) * cosine(step, steps, LAST_DUAL_STEP))
        rows.weight = torch.where(look.adversarial, rows.weight * change, rows.weight / change)
        rows.weight.clamp_(1 / EXTREME, EXTREME)
    search.finish(points)


def descend_with_momentum(search: Search[Displacements], force: Tensor, length: Tensor) -> Tensor:
    """Return the next displacements for PDGD: along a moving mean of the force less the weighted distance."""
    rows = search.rows
    pull = like(rows.weight, force).to(force.dtype) * unit(rows.away)
    rows.mean.lerp_(force - pull, 1 - MOMENTUM)
    return torch.addcmul(rows.away, like(length, force).to(force.dtype), rows.mean)


def _leading(search: Search[Displacements]) -> losses.Loss:
    """Cross-entropy while the search explores, then the margin; with another criterion, always its margin."""
    exploring = search.problem.criterion is WRONG and not search.rows.refining
    return "ce" if exploring else search.problem.margin


def _sized(gradient: Tensor, threat_norm: str) -> Tensor:
    """Return the gradient at length 1 for L2, with elements of size 1 for Linf, else of at most 1."""
    sized = gradient / like(ops.largest(gradient), gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
    if threat_norm == "linf":
        return sized.sign_()
    if threat_norm == "l2":
        sized /= like(norm(sized, 2), sized).clamp_min(1.0)
    return sized
