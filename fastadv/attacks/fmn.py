"""FMN, the fast minimum-norm attack (Pintor et al. 2021)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_share
from fastadv.attacks import _fmn, core
from fastadv.attacks.methods.geometry import FAR, advance, cosine, farthest, norm, positive, width
from fastadv.attacks.methods.growing_ball import Ball, next_radius, onto_ball_then_box
from fastadv.attacks.methods.hyperplane import DUAL
from fastadv.attacks.methods.start import check_points_of_box
from fastadv.attacks.methods.warm_start import begin
from fastadv.threat import Threat

# the last step over the first, and the last gamma, as in the authors' code
LAST_STEP, LAST_GAMMA = 0.01, 0.001


@core.takes_common(norms=("linf", "l2", "l1", "l0"), steps=1)
def fmn(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 1000,
    variant: core.Variant = "fastadv",
    step_size: float | None = None,
    gamma: float = 0.05,
    loss: losses.Loss | None = None,
    restarts: int = 1,
    starts: Tensor | None = None,
    seed: int = 0,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:
    """Find the success nearest to x, by gradient ascent inside a ball around x that shrinks and grows.

    z <- project(z + a g / ||g||_2), on the ball, and then on the box. Where the last point is a success, the
    ball's radius shrinks by the share gamma, and at least to the best distance so far. Elsewhere it grows by
    that share if the sample has been broken before; if not, it is the distance at which a linear model of the
    loss crosses the boundary. In L0 it is one coordinate at first. The step a and gamma fall along a cosine,
    to 1% and 2% of their first value. A sample whose gradient is zero at x stays there.

    Args:
        steps: gradients for each sample, an integer >= 1; the paper's experiments take 1,000.
        step_size: the length of the first step, > 0, in input units. It is Euclidean, and None is the width
            of the box (1 if that is infinite), as in the authors' code; the paper tunes it. In "fastadv" None
            is 50 widths in L0, where steps that lead beyond the box on many coordinates let the projection
            keep those whose whole range gains most; in Linf the length is that of each coordinate, and None
            is twice the ball's radius.
        starts: floating like x, adversarial points of the box, where the first attempt begins: bisected
            towards x in ten queries. A sample whose point is not adversarial begins as usual, and so do all
            with None.
        gamma: the first share by which the radius shrinks and grows, in (0, 1).
        loss: "margin", "ce", "dlr", "cw", or a function (logits, y, targets) -> [B]; it is maximized. None is
            the margin of the criterion. Its boundary should be at 0.
        restarts: attempts; the others begin at random points within half the distance of the nearest success.
        seed: of the random points of restarts.

    Example:
        >>> out = fa.attacks.fmn(model, x, y, fa.Linf(float("inf")), steps=50)
        >>> bool(out.success.all()), bool((out.distance < 0.3).all())
        (True, True)

    Source:
        Pintor et al. 2021, "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints" (arXiv
        2102.12827), algorithm 1.
    """
    check_share("gamma", gamma)
    if loss is not None:
        losses.check_loss(loss)
    check_points_of_box("starts", starts, x, threat)
    if variant == "published":
        rule = _rule(steps, positive("step_size", step_size, width(threat)), gamma, loss, starts)
    else:
        rule = _fmn.rule(threat, steps, step_size, gamma, loss, starts)
    return core.run(
        model, x, y, threat, rule, rows=Ball, minimum=True, restarts=restarts, seed=seed, **common
    )


def _rule(
    steps: int, step_size: float, gamma: float, loss: losses.Loss | None, starts: Tensor | None
) -> core.Rule[Ball]:
    """Return algorithm 1 of the paper."""

    def rule(search: core.Search[Ball]) -> None:
        rows, sparse = search.rows, search.threat.norm == "l0"
        points, given = begin(search, starts)
        rows.most = farthest(search)
        rows.radius = torch.full_like(rows.most, torch.inf)
        if sparse:
            rows.radius = torch.where(given, search.best.distance, 1.0).to(rows.most)
        for step in range(steps):
            look = search.gradient(points, loss)
            length = step_size * cosine(step, steps, LAST_STEP)
            radius = next_radius(search, look, gamma * cosine(step, steps, LAST_GAMMA / gamma))
            if not sparse:
                found = search.best.success | look.adversarial
                radius = torch.where(found, radius, _to_boundary(search, look))
            rows.radius = torch.fmin(radius, rows.most)  # a loss that is NaN says nothing of the radius
            further = advance(look.x_adv, look.gradient, search.x, length)
            points = onto_ball_then_box(search, further)
        search.finish(points)

    return rule


def _to_boundary(search: core.Search[Ball], look: core.GradientLook) -> Tensor:
    """Return [n], the distance from x at which a linear model of the loss crosses its boundary."""
    order = search.threat.order
    size = norm(look.gradient, DUAL[order]).clamp_min(torch.finfo(look.gradient.dtype).tiny)
    return norm(look.x_adv - search.x, order) + (look.loss.abs() / size).clamp_max(FAR)
