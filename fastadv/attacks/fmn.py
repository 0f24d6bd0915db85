"""FMN, the fast minimum-norm attack (Pintor et al. 2021)."""

from dataclasses import replace
from math import inf
from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv._checks import check_share
from fastadv._waiting import may_leave
from fastadv.attacks import core
from fastadv.attacks.core.checks import check_signed_loss
from fastadv.attacks.methods.bisection import Interval, halve, middle
from fastadv.attacks.methods.geometry import FAR, advance, cosine, farthest, like, norm, positive, width
from fastadv.attacks.methods.hyperplane import DUAL
from fastadv.attacks.methods.start import RESTART, check_starts
from fastadv.ops._rows import NO_BOX
from fastadv.threat import Threat

# the last step over the first, and the last gamma, as in the authors' code
LAST_STEP, LAST_GAMMA = 0.01, 0.001


class _Ball(Interval):
    """The radius [n] of each sample's ball, and the largest that makes sense."""

    radius: Tensor
    most: Tensor


def _next_radius(search: core.Search[_Ball], look: core.GradientLook, share: float) -> Tensor:
    """Return [n], the radius of the next ball around samples that have been broken."""
    radius = search.rows.radius
    smaller, larger = radius * (1 - share), radius * (1 + share)
    if search.threat.norm == "l0":
        smaller, larger = smaller.floor().minimum(radius - 1), larger.floor().maximum(radius + 1)
    smaller = torch.minimum(smaller, search.best.distance).clamp_min(0)
    return torch.where(look.adversarial, smaller, larger).to(radius.dtype)


def _onto_ball_then_box(search: core.Search[_Ball], points: Tensor) -> Tensor:
    """Project points [n, ...] onto the ball and then the box, as the paper does; it may change them."""
    ball = replace(search.threat, box=NO_BOX).resized(search.rows.radius)
    return ball.project(points, search.x).clamp_(*search.threat.box)


@core.registered(kind="minimum", paper="Pintor et al. 2021")
@core.tested(quick={"steps": 20}, oracle={"steps": 150})
@core.takes_common(norms=("linf", "l2", "l1", "l0"), steps=1)
def fmn(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 1000,
    variant: core.Variant = "fastadv", step_size: float | None = None, gamma: float = 0.05,
    loss: losses.Loss | None = None, restarts: int = 1, starts: Tensor | None = None, seed: int = 0,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Find the success nearest to x, by gradient ascent inside a ball around x that shrinks and grows.

    z <- project(z + a g / ||g||_2), on the ball, and then on the box. Where the last point is a success, the
    ball's radius shrinks by the share gamma, and at least to the best distance so far. Elsewhere it grows by
    that share if the sample has been broken before; if not, it is the distance at which a linear model of the
    loss crosses the boundary. In L0 it is one coordinate at first. The step a and gamma fall along a cosine,
    to 1% and 2% of their first value. A sample whose gradient is zero at x stays there.

    Args:
        threat: Linf, L2, L1 or L0; the radius is inf or the largest distance of interest, a number or [B].
        steps: gradients for each sample, an integer >= 1; the paper's experiments take 1,000.
        step_size: the Euclidean length of the first step, > 0, in input units; None is the width of the box
            (1 if that is infinite), as in the authors' code. In "fastadv" None is 50 widths in L0; in Linf
            the length is that of each coordinate, and None is twice the ball's radius, or a fifth of
            it where a success takes several decisions.
        gamma: the first share by which the radius shrinks and grows, in (0, 1).
        variant: "fastadv", or "published" for the algorithm of the paper; docs/departures.md compares them.
        loss: a name of `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized.
            None is the margin of the criterion.
        restarts: attempts; the others begin at random points within half the distance of the nearest
            success.
        starts: floating like x, adversarial points of the box, where the first attempt begins: bisected
            towards x in ten queries. A sample whose point is not adversarial begins as usual, and so do all
            with None.
        seed: of the random points of restarts.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.fmn(model, x, y, fa.Linf(float("inf")), steps=50)
        >>> bool(out.success.all()), bool((out.distance < 0.3).all())
        (True, True)

    Source:
        Pintor et al. 2021, "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints" (arXiv
        2102.12827), algorithm 1.
    """
    check_signed_loss(loss)
    check_share("gamma", gamma)
    check_starts(starts, x, threat)
    if variant == "published":
        rule = _rule(positive("step_size", step_size, width(threat)), gamma, loss, starts)
    else:
        rule = _ours(threat, step_size, gamma, loss, starts)
    return core.run(
        model, x, y, threat, rule, rows=_Ball, steps=steps, one_way=loss is not None, minimum=True,
        restarts=restarts, seed=seed, **common,
    )  # fmt: skip


def _rule(
    step_size: float, gamma: float, loss: losses.Loss | None, starts: Tensor | None
) -> core.Rule[_Ball]:
    """Return algorithm 1 of the paper."""

    def rule(search: core.Search[_Ball]) -> None:
        rows, sparse = search.rows, search.threat.norm == "l0"
        points, started = _begin(search, starts)
        rows.most = farthest(search)
        rows.radius = torch.full_like(rows.most, torch.inf)
        if sparse:
            rows.radius = torch.where(started, search.best.distance, 1.0).to(rows.most)
        for step in range(search.steps):
            look = search.gradient(points, loss)
            length = step_size * cosine(step, search.steps, LAST_STEP)
            radius = _next_radius(search, look, gamma * cosine(step, search.steps, LAST_GAMMA / gamma))
            if not sparse:
                succeeded = search.best.success | look.adversarial
                radius = torch.where(succeeded, radius, _to_boundary(search, look))
            rows.radius = torch.fmin(radius, rows.most)  # a loss that is NaN says nothing of the radius
            further = advance(look.x_adv, look.gradient, search.x, length)
            points = _onto_ball_then_box(search, further)
        search.finish(points)

    return rule


def _to_boundary(search: core.Search[_Ball], look: core.GradientLook) -> Tensor:
    """Return [n], the distance from x at which a linear model of the loss crosses its boundary."""
    order = search.threat.order
    size = norm(look.gradient, DUAL[order]).clamp_min(torch.finfo(look.gradient.dtype).tiny)
    return norm(look.x_adv - search.x, order) + (look.loss.abs() / size).clamp_max(FAR)


# Where both variants begin.

HALVINGS = 10  # from the caller's points to the boundary


def _begin(search: core.Search[_Ball], starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the first points [n, ...], and bool [n], which of them come from `starts`, [B, ...]."""
    # Where the caller's points meet the boundary, and at x where they are not adversarial; on restarts at a
    # random point within half the distance of the nearest success.
    rows, started = search.rows, torch.zeros_like(search.ids, dtype=torch.bool)
    if search.restart:
        return _anywhere(search), started
    if starts is None:
        return search.x.clone(), started
    far = search.problem.masked(search.per_sample(starts).to(search.x.dtype))
    look = search.decide(far)
    started, points = look.adversarial, look.x_adv
    rows.low, rows.high = search.full(0.0), search.full(1.0)
    for _ in range(HALVINGS):
        look = search.decide(_between(search, far, middle(rows)))
        halve(rows, look.adversarial)
        points = torch.where(like(look.adversarial, points), look.x_adv, points)
    return torch.where(like(started, points), points, search.x), started


def _between(search: core.Search[_Ball], far: Tensor, share: Tensor) -> Tensor:
    """Return the points nearest to `far` at that share [n] of the longest way (Pintor et al. 2021)."""
    away, kind = far - search.x, search.threat.norm
    if kind == "l0":
        count = (share * away[0].numel()).floor().clamp_min(1)
        return ops.project_l0(far, search.x, count, NO_BOX)
    share = like(share, away).to(away.dtype)
    if kind == "l2":
        away = share * away
    else:
        edge = inf not in map(abs, search.threat.box)
        room = width(search.threat) if edge else like(ops.largest(away), away)
        if kind == "linf":
            away = away.clamp(-share * room, share * room)
        else:
            away = (away.abs() - (1 - share) * room).clamp_min(0).copysign(away)
    return (search.x + away).clamp(*search.threat.box)


def _anywhere(search: core.Search[_Ball]) -> Tensor:
    """Return a random point [n, ...] for this restart, by seed and sample number."""
    best, near = search.best, RESTART[search.threat.norm] * width(search.threat)
    radius = torch.where(best.success, best.distance, near).minimum(farthest(search).to(best.rank)) / 2
    if search.threat.norm == "l0":
        radius = radius.ceil()
    threat = search.threat.resized(radius)
    points = threat.random_start(search.x, search.seed, search.ids, draw=search.restart)
    return search.classifier.layout(search.problem.masked(points))


# The fastadv variant (docs/departures.md).

# the first step, over the width of the box
FIRST_STEP = {"l2": 1.0, "l1": 1.0, "l0": 50.0}
OUR_LAST_GAMMA = 0.02
SEVERAL = 0.2  # in Linf, over the radius, where a success takes several decisions; 2 reaches any corner
# the share of the steps that may look for the first success as in the paper, in L2 and L1
PATIENCE = 0.05


def _ours(
    threat: Threat, step_size: float | None, gamma: float, loss: losses.Loss | None,
    starts: Tensor | None,
) -> core.Rule[_Ball]:  # fmt: skip
    """Return the rule: the paper's once a sample is broken, until then the way to a linear boundary."""
    if step_size is not None or threat.norm != "linf":
        step_size = positive("step_size", step_size, FIRST_STEP.get(threat.norm, 1.0) * width(threat))

    def rule(search: core.Search[_Ball]) -> None:
        rows = search.rows
        points, started = _begin(search, starts)
        rows.most = farthest(search)
        rows.radius = torch.where(started, search.best.distance.to(rows.most), rows.most)
        patience = int(PATIENCE * search.steps) if threat.norm in ("l2", "l1") else 0
        all_found = False
        for step in range(search.steps):
            look = search.gradient(points, loss)
            share = gamma * cosine(step, search.steps, OUR_LAST_GAMMA)
            decay = cosine(step, search.steps, LAST_STEP)
            radius = _next_radius(search, look, share)
            if not all_found:
                succeeded = search.best.success | look.adversarial
                way, crossing = _way_to_boundary(search, look, share)
                radius = torch.where(succeeded, radius, crossing)
                beyond = look.x_adv + way
            rows.radius = torch.fmin(radius, rows.most)  # a loss that is NaN says nothing of the radius
            further = _ascend(search, look, decay, step_size)
            if not all_found:
                if step >= patience:
                    further = torch.where(like(succeeded, further), further, beyond)
                all_found = may_leave(step, further.device) and bool(succeeded.all())
            if threat.norm == "l1" and step % 2:
                points = _onto_ball_then_box(search, further)
            else:
                points = search.threat.resized(rows.radius).project(further, search.x)
        search.finish(points)

    return rule


def _ascend(
    search: core.Search[_Ball], look: core.GradientLook, decay: float, step_size: float | None
) -> Tensor:
    """Return [n, ...], the points a step further along the gradient; those of `look` may be overwritten."""
    if search.threat.norm != "linf":
        assert step_size is not None
        return advance(look.x_adv, look.gradient, search.x, decay * step_size)
    radius, share = search.rows.radius, SEVERAL if search.problem.several else 2
    length = share * radius if step_size is None else torch.full_like(radius, step_size)
    return look.x_adv + look.gradient.sign() * like(decay * length, look.x_adv)


def _way_to_boundary(
    search: core.Search[_Ball], look: core.GradientLook, share: float
) -> tuple[Tensor, Tensor]:
    """Return the shortest way [n, ...] a little beyond the boundary of a linear model, and its radius [n]."""
    order = search.threat.order or 1.0
    # float64, in which the squares of huge and tiny gradients have room
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
