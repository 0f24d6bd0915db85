"""FMN, the fast minimum-norm attack (Pintor et al. 2021)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import FAR, advance, cosine, farthest, like, norm, positive, width
from fastadv.attacks.methods.hyperplane import DUAL
from fastadv.threat import Threat

# the first step, over the width of the box
FIRST_STEP = {"l2": 1.0, "l1": 1.0, "l0": 50.0}
LAST_STEP, LAST_GAMMA = 0.01, 0.02
# the share of the steps that may look for the first success as in the paper, in L2 and L1
PATIENCE = 0.05


class _Rows(core.Rows):
    """The radius [n] of each sample's ball, and the largest that makes sense."""

    radius: Tensor
    most: Tensor


@core.takes_common(norms=("linf", "l2", "l1", "l0"), steps=1)
def fmn(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float | None = None,
    gamma: float = 0.05,
    loss: losses.Loss | None = None,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the success nearest to x, by gradient ascent inside a ball around x that shrinks and grows.

    z <- project(z + a g / ||g||_2), on box and ball. Where the last point is a success, the ball's radius
    shrinks by the share gamma, and at least to the best distance so far. Elsewhere it grows by that share if
    the sample has been broken before; if not, it is the distance at which a linear model of the loss crosses
    the boundary (Pintor et al. 2021, algorithm 1), and a little more. The step a and gamma fall along a
    cosine, to 1 % and 2 % of their first value. Projections are exact, the box included.

    Two things differ from the paper, whose steps hardly move a point where few coordinates have a gradient
    of any size, as on adversarially trained networks. A sample that is not broken within the first 5 % of the
    steps, or at once in Linf and L0, goes to the boundary of the linear model, on the shortest way in the box
    and as far as the ball allows, until it is; in L0 the ball holds the whole way. And in Linf g / ||g||_2 is
    sign(g), the steepest direction for that norm.

    Args:
        step_size: > 0, the length of the first step, in input units. In Linf it is that of each coordinate,
            and None is twice the ball's radius. Elsewhere it is Euclidean, and None is the width of the box
            (1 if that is infinite), or 50 of it in L0: steps that lead beyond the box on many coordinates let
            the projection keep those whose whole range gains most.
        gamma: in (0, 1), the first share by which the radius shrinks and grows.
        loss: "margin", "ce", "dlr", "cw", or a function (logits, y, targets) -> [B], maximized; None is the
            margin of the criterion. Its boundary should be at 0.

    A sample whose gradient is zero at x stays there.
    """
    if step_size is not None or threat.norm != "linf":
        step_size = positive("step_size", step_size, FIRST_STEP.get(threat.norm, 1.0) * width(threat))
    core.check_share("gamma", gamma)
    if loss is not None:
        losses.check_loss(loss)

    patience = int(PATIENCE * steps) if threat.norm in ("l2", "l1") else 0

    def rule(search: core.Search[_Rows]) -> None:
        rows = search.rows
        rows.most = rows.radius = farthest(search)
        points, all_found = search.start(), False
        for step in range(steps):
            look = search.gradient(points, loss)
            share, decay = gamma * cosine(step, steps, LAST_GAMMA), cosine(step, steps, LAST_STEP)
            radius = _radius(search, look, share)
            if not all_found:
                found = search.best.success | look.adversarial
                way, crossing = _to_boundary(search, look, share)
                radius = torch.where(found, radius, crossing)
                beyond = look.x_adv + way
            rows.radius = torch.fmin(radius, rows.most)  # a loss that is NaN says nothing of the radius
            further = _ascend(search, look, decay, step_size)
            if not all_found:
                if step >= patience:
                    further = torch.where(like(found, further), further, beyond)
                all_found = core.may_leave(step, further.device) and bool(found.all())
            points = search.threat.resized(rows.radius).project(further, search.x)
        search.finish(points)

    return core.run(model, x, y, threat, rule, rows=_Rows, minimum=True, **common)


def _ascend(
    search: core.Search[_Rows], look: core.GradientLook, decay: float, step_size: float | None
) -> Tensor:
    """Return [n, ...], the points a step further along the gradient; those of `look` may be overwritten."""
    if search.threat.norm != "linf":
        assert step_size is not None
        return advance(look.x_adv, look.gradient, search.x, decay * step_size)
    length = 2 * search.rows.radius if step_size is None else torch.full_like(search.rows.radius, step_size)
    return look.x_adv + look.gradient.sign() * like(decay * length, look.x_adv)


def _to_boundary(search: core.Search[_Rows], look: core.GradientLook, share: float) -> tuple[Tensor, Tensor]:
    """Return the shortest way [n, ...] in the box to a little beyond the boundary of a linear model of the
    loss, and the radius [n] at which that model, without the box, places the boundary.
    """
    order = search.threat.order or 1.0
    # in float64, where the squares of huge and tiny gradients have room
    size = norm(look.gradient.double(), DUAL[order])
    distance = norm(look.x_adv - search.x, order)
    # a little more, or it might never be crossed
    lack = torch.maximum(look.loss.abs() * (1 + share), distance * share * size)
    sparse = search.threat.norm == "l0"
    way = ops.to_hyperplane(
        look.x_adv, look.gradient, lack, "l1" if sparse else search.threat.norm, search.threat.box
    )
    if sparse:
        return way, search.distance(look.x_adv + way)
    left = (lack / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(FAR)
    return way, (distance + left).to(distance.dtype)


def _radius(search: core.Search[_Rows], look: core.GradientLook, share: float) -> Tensor:
    """Return [n], the radius of the next ball around samples that have been broken."""
    radius = search.rows.radius
    smaller, larger = radius * (1 - share), radius * (1 + share)
    if search.threat.norm == "l0":
        smaller, larger = smaller.floor().minimum(radius - 1), larger.floor().maximum(radius + 1)
    smaller = torch.minimum(smaller, search.best.distance).clamp_min(0)
    return torch.where(look.adversarial, smaller, larger).to(radius.dtype)
