"""What this library changes of primal-dual attacks (`pdgd.py`, `pdpgd.py`): force, weight and steps."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks.core import WRONG, Search
from fastadv.attacks.methods.geometry import cosine, like, norm, unit, width
from fastadv.attacks.methods.proximal_adam import DUAL_STEP, DUAL_WAY, EXTREME, Exploration, explore

# the share of the steps that look for the right place; the others refine what they found
EXPLORING = 0.3
MOMENTUM = 0.5
LAST_DUAL_STEP = 0.1  # the last step of the weight's logarithm over the first


class Displacements(Exploration):
    """`away` [n, ...] in float32 at least; the `unit` of steps and the `weight` of the distance [n]; whether
    the search is `refining` what it found.
    """

    unit: Tensor
    weight: Tensor
    refining: bool


def primal_dual(
    search: Search[Displacements],
    descend: Callable[[Search, Tensor, Tensor], Tensor],
    *,
    steps: int,
    step_size: float,
    last_step: float,
    weight: float,
    loss: losses.Loss | None,
    exploring: int = 0,
) -> None:
    """Descend on weight * distance - loss, while the weight rises at successes and falls elsewhere.

    `descend` takes the force, which is the gradient of the loss in a fixed size, and the length of the step
    [n]. It returns the next displacements. `rows.away` are the last ones, in float32 at least, `rows.weight`
    [n] is the weight of the distance, and `rows.mean`, like them, is for its own use.

    Steps are in units of the least distance of a success so far, or of the width of the box while that is
    less. A success exerts no force, as with a hinge loss. In L0 it does, since the force tells which
    coordinates count, and all steps are in widths of the box. The first `exploring` steps go another way,
    and these go on from there.
    """
    rows, sparse = search.rows, search.threat.norm == "l0"
    points = search.start()
    rows.unit = torch.full_like(search.best.rank, width(search.threat))
    rows.away = torch.zeros_like(search.x, dtype=torch.promote_types(search.x.dtype, torch.float32))
    if exploring:
        explore(search, exploring, search.problem.margin if loss is None else loss)
        points = torch.where(like(search.best.success, search.x), search.best.x_adv, search.x + rows.away)
        rows.away = points.to(rows.away.dtype) - search.x
        if not sparse:
            rows.unit = torch.where(search.best.success, rows.unit.minimum(search.best.distance), rows.unit)
        steps -= exploring
    rows.mean = torch.zeros_like(rows.away)
    rows.weight = search.full(weight)
    for step in range(steps):
        rows.refining = exploring > 0 or step >= EXPLORING * steps
        look = search.gradient(points, _leading(search) if loss is None else loss)
        force = _sized(look.gradient.to(rows.away.dtype), search.threat.norm)
        if not sparse:
            force.masked_fill_(like(look.adversarial, force), 0.0)
            rows.unit = torch.where(look.adversarial, rows.unit.minimum(look.distance), rows.unit)
        away = descend(search, force, step_size * cosine(step, steps, last_step) * rows.unit)
        reached = away.add_(search.x).clamp_(*search.threat.box)
        points, rows.away = reached.to(search.x.dtype), reached - search.x
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
    """Cross-entropy, which sees all classes, while the search explores; then the margin, whose gradient is
    the normal of the boundary. With another criterion, always its margin.
    """
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
