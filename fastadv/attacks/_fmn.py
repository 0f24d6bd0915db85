"""What this library changes of FMN (`fmn.py`), for networks on which its steps hardly move a point."""

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks import core
from fastadv.attacks.core.waiting import may_leave
from fastadv.attacks.methods.geometry import FAR, advance, cosine, farthest, like, norm, positive, width
from fastadv.attacks.methods.growing_ball import Ball, next_radius, onto_ball_then_box
from fastadv.attacks.methods.hyperplane import DUAL
from fastadv.attacks.methods.warm_start import begin
from fastadv.threat import Threat

# the first step, over the width of the box
FIRST_STEP = {"l2": 1.0, "l1": 1.0, "l0": 50.0}
LAST_STEP, LAST_GAMMA = 0.01, 0.02
# the share of the steps that may look for the first success as in the paper, in L2 and L1
PATIENCE = 0.05


def rule(
    threat: Threat,
    steps: int,
    step_size: float | None,
    gamma: float,
    loss: losses.Loss | None,
    starts: Tensor | None,
) -> core.Rule[Ball]:
    """Return the rule: the paper's once a sample is broken, until then the way to a linear model's boundary.

    Raises InputError on a step size that is not > 0.
    """
    if step_size is not None or threat.norm != "linf":
        step_size = positive("step_size", step_size, FIRST_STEP.get(threat.norm, 1.0) * width(threat))
    patience = int(PATIENCE * steps) if threat.norm in ("l2", "l1") else 0

    def rule(search: core.Search[Ball]) -> None:
        rows = search.rows
        points, given = begin(search, starts)
        rows.most = farthest(search)
        rows.radius = torch.where(given, search.best.distance.to(rows.most), rows.most)
        all_found = False
        for step in range(steps):
            look = search.gradient(points, loss)
            share, decay = gamma * cosine(step, steps, LAST_GAMMA), cosine(step, steps, LAST_STEP)
            radius = next_radius(search, look, share)
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
                all_found = may_leave(step, further.device) and bool(found.all())
            if threat.norm == "l1" and step % 2:
                points = onto_ball_then_box(search, further)
            else:
                points = search.threat.resized(rows.radius).project(further, search.x)
        search.finish(points)

    return rule


def _ascend(
    search: core.Search[Ball], look: core.GradientLook, decay: float, step_size: float | None
) -> Tensor:
    """Return [n, ...], the points a step further along the gradient; those of `look` may be overwritten."""
    if search.threat.norm != "linf":
        assert step_size is not None
        return advance(look.x_adv, look.gradient, search.x, decay * step_size)
    length = 2 * search.rows.radius if step_size is None else torch.full_like(search.rows.radius, step_size)
    return look.x_adv + look.gradient.sign() * like(decay * length, look.x_adv)


def _to_boundary(search: core.Search[Ball], look: core.GradientLook, share: float) -> tuple[Tensor, Tensor]:
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
