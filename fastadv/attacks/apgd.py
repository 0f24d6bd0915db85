"""Auto-PGD (Croce & Hein 2020; for L1, Croce & Hein 2021)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops, rng
from fastadv._checks import check_count, check_number
from fastadv.attacks._common import Common, takes_common
from fastadv.attacks._core import run
from fastadv.attacks._problem import check_finite_radius, check_norm
from fastadv.attacks._result import AttackResult
from fastadv.attacks._search import Look, Search
from fastadv.engine import Frozen
from fastadv.engine.frozen import Model
from fastadv.errors import InputError
from fastadv.threat import Threat

NORMS = ("linf", "l2", "l1")
TARGETED = "-targeted"
CLASSES = 9  # targets of a "-targeted" loss
MOMENTUM = 0.75  # the weight of the new step; the rest is that of the step before
# checkpoints, as shares of the steps: the first interval, by how much each is shorter, the shortest
FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06
# for L1: the interval, the share of coordinates that move first, what counts as sparser, how fast steps
# shrink, and how far
INTERVAL_L1, DENSITY, SPARSER, SHRINK, LEAST_STEP = 0.04, 0.2, 0.95, 1.5, 0.1
LARGER = (3.0, 2.0)  # radii to begin with, over the radius of the threat


@takes_common
def apgd(
    model: Model | Frozen,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    loss: losses.Loss = "ce",
    classes: int | None = None,
    restarts: int = 1,
    rho: float = 0.75,
    larger_radii: bool | None = None,
    stop_early: bool = True,
    seed: int = 0,
    **common: Unpack[Common],
) -> AttackResult:
    """max loss(model(z), y) over z in ball and box, by ascent with momentum whose step size adapts itself.

    The first step is twice the radius. At each checkpoint the step of a sample is halved, and the sample goes
    back to its strongest point, if less than `rho` of the steps since the last checkpoint raised its loss, or
    if neither the step nor the highest loss has changed since then (Croce & Hein 2020, algorithm 1). Under L1
    each step moves the coordinates with the largest gradients; their number follows the sparsity of the
    strongest point (Croce & Hein 2021, algorithm 1).

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is left as it is.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: Linf, L2 or L1; radius a number or [B], finite, in input units.
        steps: moves in each restart; 0 returns the start.
        loss: "ce", "margin" (of the criterion, where one is given), "dlr", "cw", or a function (logits, y,
            targets) -> [B], maximised. One of the names with "-targeted" after it leads to the classes with
            the largest logits at x, one in each round of restarts: "dlr-targeted" is APGD-T. A success is
            still any wrong class. DLR needs three classes, and its targeted form four; with fewer, see
            `fastadv.ops.logit_loss`.
        classes: how many classes a "-targeted" loss goes through; None is 9. At most K - 1 there are.
        restarts: attempts from different random points, for each class of a "-targeted" loss.
        rho: the share of successful steps, from 0 to 1, below which a step size is halved. Not for L1.
        larger_radii: L1 only: spend the first 60 % of the steps in balls of three and two times the radius
            (Croce & Hein 2021, section 4.3). None is True for L1.
        stop_early: leave a sample at its first success; otherwise return its strongest point.
        seed: of the random starts.
        common: targets, criterion, mask, eot and ids, as in `fastadv.attacks.Common`.

    Raises InputError on wrong input, naming it.
    """
    check_norm("apgd", threat, NORMS)
    check_finite_radius(threat)
    check_count("steps", steps, 0)
    check_count("restarts", restarts, 1)
    check_number("rho", rho, 0, 1)
    base, rounds = _targets(loss, classes, common)
    if larger_radii and threat.norm != "l1":
        raise InputError(f"larger_radii: expected None or False for {threat.norm}, got True; it is for L1")
    stages = _stages(steps, threat.norm == "l1" and larger_radii is not False)

    def rule(search: Search) -> None:
        if rounds:
            target = search.restart // restarts
            if not _aim(search, target):
                return
        points = _random_start(search, stages[0][0])
        for number, (factor, moves) in enumerate(stages):
            if number:
                points = _project(search, search.rows.top, factor)
            _Stage(search, factor, moves, rho, len(stages) > 1).run(points)

    # the margin of the criterion is the loss by default
    return run(
        model,
        x,
        y,
        threat,
        rule,
        loss=None if base == "margin" else base,
        restarts=restarts * max(rounds, 1),
        stop_early=stop_early,
        seed=seed,
        **common,
    )


def _targets(loss: losses.Loss, classes: int | None, common: Common) -> tuple[losses.Loss, int]:
    """The loss without "-targeted", and how many classes it goes through: 0 where it is not targeted."""
    if not isinstance(loss, str) or not loss.endswith(TARGETED):
        if classes is not None:
            raise InputError(f'classes: expected None unless the loss ends in "{TARGETED}", got {classes!r}')
        return losses.check_loss(loss), 0
    base = loss.removesuffix(TARGETED)
    if common.get("targets") is not None:
        raise InputError(f"loss: expected {base!r} where targets are given, got {loss!r}, which chooses them")
    return losses.check_loss(base), CLASSES if classes is None else check_count("classes", classes, 1)


def _stages(steps: int, larger: bool) -> list[tuple[float, int]]:
    """(radius over that of the threat, moves) of each part of a run."""
    early = 3 * steps // 10 if larger else 0
    if not early:
        return [(1.0, steps)]
    return [*((factor, early) for factor in LARGER), (1.0, steps - len(LARGER) * early)]


def _aim(search: Search, number: int) -> bool:
    """Let losses lead to the other class with the `number`-th largest logit at x, if there are so many."""
    clean = search.problem.clean
    assert clean is not None
    if number >= clean.shape[1] - 1:
        return False
    others = clean.scatter(1, search.y[:, None], -torch.inf)
    search.rows.aims = others.argsort(dim=1, descending=True, stable=True)[:, number]
    return True


def _random_start(search: Search, factor: float) -> Tensor:
    """[n, ...] a point near the surface of the ball: noise of full length, for L1 projected on the ball."""
    x, threat = search.x, search.threat
    seed = rng.derive(search.seed, "apgd", search.restart)
    draw = rng.uniform if threat.norm == "linf" else rng.normal
    noise = draw(x[0].numel(), seed, search.ids).to(x.dtype).view(x.shape)
    noise = 2 * noise - 1 if threat.norm == "linf" else noise
    if search.problem.mask is not None:
        noise = noise * search.problem.mask
    if threat.norm == "l1":
        low, high = threat.box
        noise = noise * (high - low) if high - low < torch.inf else noise
    else:
        length = torch.linalg.vector_norm(noise.flatten(1), threat.order, dim=1)
        radius = torch.as_tensor(threat.radius, dtype=x.dtype, device=x.device)
        noise = noise * _like(radius / length.clamp_min(torch.finfo(x.dtype).tiny), noise)
    return search.frozen.layout(_project(search, (x + noise).clamp(*threat.box), factor))


def _project(search: Search, points: Tensor, factor: float) -> Tensor:
    """The nearest points in the box and in the ball of `factor` times the radius; only L1 has factors."""
    threat = search.threat
    if factor == 1:
        return threat.project(points, search.x)
    return ops.project_l1(points, search.x, threat.radius * factor, threat.box)


class _Stage:
    """A run of APGD at one radius. What it knows of the samples is in `search.rows`:

    `points` and `gradient` are where a sample stands, `before` is where it stood a step ago and `loss` its
    loss there; `top`, `top_gradient` and `top_loss` are its strongest point.
    """

    def __init__(self, search: Search, factor: float, moves: int, rho: float, started: bool) -> None:
        self.search, self.factor, self.moves, self.rho = search, factor, moves, rho
        # whether the start says how many coordinates to move; otherwise that is `DENSITY`
        self.started = started
        self.sparse = search.threat.norm == "l1"

    def run(self, points: Tensor) -> None:
        """Move `moves` times from points [n, ...]."""
        self._begin(points)
        if self.sparse:
            interval = shortest = max(int(INTERVAL_L1 * self.moves), 1)
            shorter = 0
        else:
            interval, shorter, shortest = (
                max(int(share * self.moves), 1) for share in (FIRST, SHORTER, SHORTEST)
            )
        since = 0
        for move in range(self.moves):
            points = self._sparse_step() if self.sparse else self._step(1.0 if move == 0 else MOMENTUM)
            self._look(points, last=move == self.moves - 1)
            since += 1
            if since == interval and move < self.moves - 1:
                if self.sparse:
                    self._check_sparse()
                else:
                    self._check(interval)
                interval, since = max(interval - shorter, shortest), 0

    def _begin(self, points: Tensor) -> None:
        rows, search = self.search.rows, self.search
        look = self._evaluate(points, self.moves == 0)
        n, rows.points, rows.gradient = len(look.x_adv), look.x_adv, look.gradient
        rows.before, rows.top = look.x_adv.clone(), look.x_adv.clone()
        rows.top_gradient = torch.zeros_like(rows.top)
        rows.loss = search.rank(look).to(search.best.rank.dtype)
        rows.top_loss = torch.full_like(rows.loss, -torch.inf)
        self._keep_top(look)
        length: Tensor = torch.as_tensor(search.threat.radius, dtype=torch.float64, device=search.x.device)
        # under a radius of zero nothing moves, but a step has a length
        length = torch.where(length > 0, length, 1.0).expand(n)
        rows.step_size = length * (self.factor if self.sparse else 2.0)
        if self.sparse:
            rows.longest = rows.step_size
            rows.nonzero = self._nonzero(look.x_adv)
            share = rows.nonzero / look.x_adv[0].numel() / SHRINK
            rows.density = share if self.started else torch.full_like(share, DENSITY)
            if not self.started:
                rows.nonzero = torch.full_like(rows.nonzero, look.x_adv[0].numel())
        else:
            rows.rises = torch.zeros_like(rows.loss)
            rows.checked, rows.halved = rows.top_loss.clone(), torch.ones_like(search.best.success)

    def _look(self, points: Tensor, last: bool) -> None:
        """Stand at the points that a step leads to."""
        search, rows = self.search, self.search.rows
        look = self._evaluate(points, last)
        loss = search.rank(look).to(rows.loss.dtype)
        if not self.sparse:
            rows.rises += loss > rows.loss
        rows.points, rows.gradient, rows.loss = look.x_adv, look.gradient, loss
        self._keep_top(look)

    def _evaluate(self, points: Tensor, last: bool) -> Look:
        # points of a larger ball are no candidates
        judge = self.factor == 1
        if last:
            return self.search.decide(points, self.search.plan.loss, judge=judge)
        return self.search.gradient(points, judge=judge)

    def _keep_top(self, look: Look) -> None:
        rows = self.search.rows
        none = torch.zeros_like(self.search.best.success)
        if look.gradient is not None:
            ops.keep_best_(rows.top_gradient, rows.top_loss.clone(), none, look.gradient, rows.loss, none)
        ops.keep_best_(rows.top, rows.top_loss, none, look.x_adv, rows.loss, none)

    def _step(self, weight: float) -> Tensor:
        """[n, ...] a step along the gradient, mixed with the step before, both projected."""
        rows, search = self.search.rows, self.search
        points = search.threat.step(rows.points, rows.gradient, search.x, rows.step_size)
        if weight != 1:
            # points' = points + weight (stepped - points) + (1 - weight) (points - before)
            ahead = rows.before.neg_().add_(rows.points, alpha=2)
            points = search.threat.project(ahead.lerp_(points, weight), search.x)
        rows.before = rows.points
        return points

    def _check(self, interval: int) -> None:
        """Halve the steps of samples whose loss rises too rarely; they go on from their strongest point."""
        rows = self.search.rows
        halve = (rows.rises <= self.rho * interval) | (~rows.halved & (rows.checked >= rows.top_loss))
        rows.step_size = torch.where(halve, rows.step_size / 2, rows.step_size)
        rows.halved, rows.checked = halve, rows.top_loss.clone()
        rows.rises.zero_()
        self._go_back(halve)

    def _go_back(self, samples: Tensor) -> None:
        rows = self.search.rows
        samples = _like(samples, rows.points)
        rows.points = torch.where(samples, rows.top, rows.points)
        rows.gradient = torch.where(samples, rows.top_gradient, rows.gradient)

    def _sparse_step(self) -> Tensor:
        """[n, ...] a step of equal length in each of the coordinates with the largest gradients."""
        rows, search = self.search.rows, self.search
        size = rows.gradient.flatten(1).abs()
        count = size.shape[1]
        kept = (rows.density * count).long().clamp(1, count)
        largest = size.topk(int(kept.max()), dim=1).values
        least = largest.gather(1, kept[:, None] - 1)
        sign = rows.gradient.sign() * _like(size >= least, rows.gradient)
        moving = (sign != 0).flatten(1).sum(1).clamp_min(1)
        step = _like((rows.step_size / moving).to(sign.dtype), sign)
        return _project(search, sign.mul_(step).add_(rows.points), self.factor)

    def _check_sparse(self) -> None:
        """Shorten steps, or begin anew from the strongest point where that has become sparser."""
        rows = self.search.rows
        nonzero = self._nonzero(rows.top)
        sparser = nonzero < SPARSER * rows.nonzero
        rows.density = nonzero / rows.top[0].numel() / SHRINK
        shorter = (rows.step_size / SHRINK).maximum(LEAST_STEP * rows.longest)
        rows.step_size = torch.where(sparser, rows.longest, shorter)
        rows.nonzero = nonzero
        self._go_back(sparser)

    def _nonzero(self, points: Tensor) -> Tensor:
        """[n] how many coordinates have moved."""
        return (points != self.search.x).flatten(1).sum(1).to(self.search.best.rank.dtype)


def _like(values: Tensor, points: Tensor) -> Tensor:
    """values [n], or [n, D], with the rank of points."""
    if values.ndim > 1:
        return values.view(points.shape)
    return values.view(-1, *[1] * (points.ndim - 1))
