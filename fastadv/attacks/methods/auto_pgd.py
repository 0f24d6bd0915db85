"""The stages of Auto-PGD: ascent in one ball, with steps that adapt their own length."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv._waiting import waits
from fastadv.attacks.core import GradientLook, Rows, ScoredLook, Search, repeat
from fastadv.attacks.methods.geometry import like
from fastadv.losses import Loss
from fastadv.ops.keep_best import keep_best_
from fastadv.threat import Threat

MOMENTUM = 0.75  # the weight of the new step; the rest is that of the step before
# checkpoints, as shares of the steps: the first interval, by how much each is shorter, the shortest
DENSE = 0.22, 0.03, 0.06
# L1's numbers: the interval, the share of coordinates that move first, what counts as sparser, how fast steps
# shrink, and how far
INTERVAL_L1, DENSITY, SPARSER, SHRINK, LEAST_STEP = 0.04, 0.2, 0.95, 1.5, 0.1
# an allowance for what rounding adds to a number of coordinates before it is rounded up
ROUNDING = 1e-6


class Ascents(Rows):
    """What a stage knows of the samples."""

    points: Tensor
    gradient: Tensor
    before: Tensor  # where a sample stood a step ago
    loss: Tensor  # there
    top: Tensor  # its strongest point
    top_gradient: Tensor
    top_loss: Tensor
    rises: Tensor  # the steps since the last checkpoint that raised the loss
    step_size: Tensor
    checked: Tensor  # dense: the loss at the last checkpoint
    halved: Tensor  # dense: whose steps were halved there
    longest: Tensor  # sparse: the longest step
    nonzero: Tensor  # sparse: how many coordinates have moved
    density: Tensor  # sparse: of the next step


def stages(steps: int, larger: tuple[float, ...]) -> list[tuple[float, int]]:
    """Return (radius over that of the threat, moves) of each part of a run, larger balls first."""
    early = 3 * steps // 10
    if not early:
        return [(1.0, steps)]
    return [*((factor, early) for factor in larger), (1.0, steps - len(larger) * early)]


def spans(moves: int, shares: tuple[float, float, float] = DENSE) -> Iterator[tuple[int, int, int]]:
    """Yield (first move, end, interval) up to each checkpoint; the last span may end before its interval."""
    interval, shorter, shortest = (max(int(share * moves), 1) for share in shares)
    done = 0
    while done < moves:
        end = min(done + interval, moves)
        yield done, end, interval
        done, interval = end, max(interval - shorter, shortest)


def ball(search: Search[Ascents], factor: float) -> Threat:
    threat = search.threat
    return threat if factor == 1 else threat.resized(threat.radius * factor)


def project(search: Search[Ascents], points: Tensor, factor: float) -> Tensor:
    """Return the nearest points in the box and the ball of `factor` times the radius."""
    return ball(search, factor).project(points, search.x)


class Stage:
    """`moves` steps in the ball of `factor` times the radius, along a loss; None is that of the plan."""

    shares = DENSE

    def __init__(self, search: Search[Ascents], factor: float, moves: int, loss: Loss | None = None) -> None:
        self.search, self.factor, self.moves, self.loss = search, factor, moves, loss

    def run(self, points: Tensor) -> None:
        self.begin(points)
        name = type(self), self.factor, self.loss
        for first, end, interval in spans(self.moves, self.shares):
            if first == 0:
                self._move(0)
            # moves that are alike; the last one needs no gradient
            alike = range(max(first, 1), min(end, self.moves - 1))
            repeat(self.search, self.next, len(alike), name, self.moves - end)
            if end < self.moves:
                self.check(interval)
            elif end > 1:
                self._move(end - 1)

    def next(self, search: Search[Ascents]) -> None:
        """Make a move that is neither the first nor the last one, on what another search has in its rows."""
        here, self.search = self.search, search
        try:
            self._move(1)
        finally:
            self.search = here

    def begin(self, points: Tensor) -> None:
        rows, search = self.search.rows, self.search
        # points of a larger ball are no candidates
        look_at = self.search.gradient if self.moves else self.search.score
        look: ScoredLook = look_at(points, self.loss, self.factor == 1)
        self._stand(look)
        rows.before, rows.top = look.x_adv.clone(), look.x_adv.clone()
        rows.top_gradient = torch.zeros_like(rows.top)
        rows.loss = self.value(look).to(search.best.rank.dtype)
        rows.top_loss, rows.rises = torch.full_like(rows.loss, -torch.inf), torch.zeros_like(rows.loss)
        self._keep_top(look)

    def step(self, move: int) -> Tensor:
        """Return [n, ...] where step number `move` leads; it is the same for all but the first."""
        raise NotImplementedError

    def check(self, interval: int) -> None:
        """Adapt the steps at a checkpoint, `interval` steps after the last one."""
        raise NotImplementedError

    def value(self, look: ScoredLook) -> Tensor:
        """Return [n], by what the steps adapt: it should rise."""
        return self.search.rank(look)

    def radius(self) -> Tensor:
        """Return float64 [n], that of the ball, positive so that a step has a length."""
        search = self.search
        length: Tensor = torch.as_tensor(search.threat.radius, dtype=torch.float64, device=search.x.device)
        return self.factor * torch.where(length > 0, length, 1.0).expand(len(search.x))

    def go_back(self, samples: Tensor) -> None:
        if self.search.plan.last:
            return  # the strongest point may be the luckiest
        rows = self.search.rows
        samples = like(samples, rows.points)
        rows.points = torch.where(samples, rows.top, rows.points)
        rows.gradient = torch.where(samples, rows.top_gradient, rows.gradient)

    def _move(self, move: int) -> None:
        rows = self.search.rows
        look_at = self.search.score if move == self.moves - 1 else self.search.gradient
        look: ScoredLook = look_at(self.step(move), self.loss, self.factor == 1)
        loss = self.value(look).to(rows.loss.dtype)
        rows.rises += loss > rows.loss
        self._stand(look)
        rows.loss = loss
        self._keep_top(look)

    def _stand(self, look: ScoredLook) -> None:
        self.search.rows.points = look.x_adv
        if isinstance(look, GradientLook):
            self.search.rows.gradient = look.gradient

    def _keep_top(self, look: ScoredLook) -> None:
        rows = self.search.rows
        none = torch.zeros_like(self.search.best.success)
        if isinstance(look, GradientLook):
            keep_best_(rows.top_gradient, rows.top_loss.clone(), none, look.gradient, rows.loss, none)
        keep_best_(rows.top, rows.top_loss, none, look.x_adv, rows.loss, none)


class Dense(Stage):
    """Linf and L2: steps along the whole gradient, with momentum (Croce & Hein 2020, algorithm 1)."""

    def __init__(
        self, search: Search[Ascents], moves: int, rho: float, factor: float = 1.0, loss: Loss | None = None
    ) -> None:
        super().__init__(search, factor, moves, loss)
        self.rho = rho

    def begin(self, points: Tensor) -> None:
        super().begin(points)
        rows = self.search.rows
        rows.step_size = 2 * self.radius()
        rows.checked, rows.halved = rows.top_loss.clone(), torch.ones_like(self.search.best.success)

    def step(self, move: int) -> Tensor:
        """Return a step along the gradient, mixed with the step before, both projected."""
        rows, search = self.search.rows, self.search
        threat = ball(search, self.factor)
        points = threat.step(rows.points, rows.gradient, search.x, rows.step_size)
        if move:
            # points' = points + weight (stepped - points) + (1 - weight) (points - before)
            ahead = rows.before.neg_().add_(rows.points, alpha=2)
            points = threat.project(ahead.lerp_(points, MOMENTUM), search.x)
        rows.before = rows.points
        return points

    def check(self, interval: int) -> None:
        """Halve the steps of samples whose loss rises too rarely; they go on from their strongest point."""
        rows = self.search.rows
        halve = (rows.rises <= self.rho * interval) | (~rows.halved & (rows.checked >= rows.top_loss))
        halve |= self.search.plan.last  # by what draws say no loss has risen
        rows.step_size = torch.where(halve, rows.step_size / 2, rows.step_size)
        rows.halved, rows.checked = halve, rows.top_loss.clone()
        rows.rises.zero_()
        self.go_back(halve)


class Sparse(Stage):
    """L1: steps in the coordinates with the largest gradients (Croce & Hein 2021, algorithm 1)."""

    shares = INTERVAL_L1, 0.0, INTERVAL_L1

    def __init__(self, search: Search[Ascents], factor: float, moves: int, started: bool) -> None:
        super().__init__(search, factor, moves)
        self.started = started  # whether the start shows how many coordinates to move; else `DENSITY`

    def begin(self, points: Tensor) -> None:
        super().begin(points)
        rows = self.search.rows
        rows.longest = rows.step_size = self.radius()
        rows.nonzero = self._nonzero(rows.points)
        rows.density = rows.nonzero / rows.points[0].numel() / SHRINK
        if not self.started:
            rows.density = torch.full_like(rows.density, DENSITY)
            rows.nonzero = torch.full_like(rows.nonzero, rows.points[0].numel())

    def step(self, move: int) -> Tensor:
        """Return a step of equal length in each of the coordinates that move."""
        rows, search = self.search.rows, self.search
        size = rows.gradient.flatten(1).abs()
        count = size.shape[1]
        kept = (rows.density * count * (1 - ROUNDING)).ceil().long().clamp(1, count)
        most = count if waits(size.device) else int(kept.max())
        largest = size.topk(most, dim=1).values
        least = largest.gather(1, kept[:, None] - 1)
        sign = rows.gradient.sign() * (size >= least).view(rows.gradient.shape)
        moving = (sign != 0).flatten(1).sum(1).clamp_min(1)
        length = like((rows.step_size / moving).to(sign.dtype), sign)
        return project(search, sign.mul_(length).add_(rows.points), self.factor)

    def check(self, interval: int) -> None:
        """Shorten steps, or begin anew from the strongest point where that has become sparser."""
        rows = self.search.rows
        nonzero = self._nonzero(rows.top)
        sparser = nonzero < SPARSER * rows.nonzero
        rows.density = nonzero / rows.top[0].numel() / SHRINK
        shorter = (rows.step_size / SHRINK).maximum(LEAST_STEP * rows.longest)
        rows.step_size = torch.where(sparser, rows.longest, shorter)
        rows.nonzero = nonzero
        self.go_back(sparser)

    def _nonzero(self, points: Tensor) -> Tensor:
        return (points != self.search.x).flatten(1).sum(1).to(self.search.best.rank.dtype)
