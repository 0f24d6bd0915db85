"""The least noise that succeeds (Rauber et al. 2017, Schott et al. 2018)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.core import Rows, Rule, Search
from fastadv.attacks.methods.geometry import as_floats, farthest, like, norm, where_rows
from fastadv.ops import project_l0
from fastadv.ops._rows import NO_BOX
from fastadv.threat import Threat
from fastadv.threat.checks import check_finite_box

# (count, seed, ids, draw) -> [n, count], as in fastadv.rng
Draw = Callable[[int, int, Tensor, int], Tensor]
# (search, noise [n, C, ...], sizes [n, C]) -> points [n, C, ...]
Grow = Callable[[Search, Tensor, Tensor], Tensor]

# the share by which a noise has to become smaller to be worth a query
WORTH = 1e-3
# the share of the distance between two sizes by which a level shifts its sizes: they soon lie dense
GOLDEN = (math.sqrt(5) - 1) / 2
# corrections of a scale for what the box cuts off
CORRECTIONS = 4


class Sizes(Rows):
    """The smallest `noise` that is a success, and its `size`."""

    noise: Tensor
    size: Tensor
    low: Tensor  # the largest that failed
    most: Tensor  # the largest size there is
    limited: Tensor  # whether the radius sets that


@dataclass(frozen=True)
class Noise:
    """A kind of noise: its name in random streams, how it is drawn, its points; sizes may be `whole`."""

    name: str
    draw: Draw
    grow: Grow
    whole: bool = False


def signed(count: int, seed: int, ids: Tensor, draw: int) -> Tensor:
    """Return [n, count], uniform in [-1, 1)."""
    return rng.uniform(count, seed, ids, draw).mul_(2).sub_(1)


def noise_rule(noise: Noise, threat: Threat, levels: int, repetitions: int) -> Rule:
    """Return the rule for the smallest noise that is a success, with levels * repetitions queries."""
    # Until there is one, noises pass at once: of the size of the radius, or of all sizes up to the farthest
    # point where that is nearer. A success is made smaller by sections; fresh noises just smaller follow.
    if noise.whole or not threat.finite:
        check_finite_box(noise.name, threat)
    bounded = not noise.whole and (isinstance(threat.radius, Tensor) or threat.finite)

    def rule(search: Search[Sizes]) -> None:
        most, rows = farthest(search), search.rows
        radius = search.per_sample(torch.as_tensor(threat.radius, device=most.device).to(most))
        rows.limited = radius < most
        most = most.minimum(radius)
        rows.most = most.floor() if noise.whole else most
        rows.size, rows.low = torch.full_like(most, torch.inf), torch.zeros_like(most)
        rows.noise = torch.zeros_like(search.x)
        seed = rng.derive(search.seed, noise.name, search.restart)
        steps = torch.arange(1, repetitions + 1, device=most.device)
        shares = steps / (repetitions + 1)

        def ask(part: Search[Sizes], at: Tensor, level: int, sizes: Tensor, narrows: Tensor) -> None:
            count, shape = repetitions * part.x[0].numel(), (len(at), repetitions, *part.x.shape[1:])
            fresh = noise.draw(count, seed, part.ids, level).to(part.x.dtype).view(shape)
            tried = where_rows(narrows[at], part.rows.noise.unsqueeze(1), fresh)
            points = noise.grow(part, tried, sizes[at])
            look = part.decide(_within(part, points) if bounded else points)
            _keep(part, tried, sizes[at], narrows[at], look.adversarial)

        for level in range(1, levels + 1):
            step = torch.ones_like(rows.size) if noise.whole else WORTH * rows.size
            broken = rows.size.isfinite()
            narrows = broken & (rows.size - rows.low > step)
            less, inside = rows.size - step, rows.low[:, None] + (rows.size - rows.low)[:, None] * shares
            spread = rows.most[:, None] * (steps - (level - 1) * GOLDEN % 1) / repetitions
            spread = torch.where(rows.limited[:, None], rows.most[:, None], spread)
            if noise.whole:
                inside, spread = inside.floor(), spread.ceil()
            sizes = torch.where(broken[:, None], less[:, None], spread).where(~narrows[:, None], inside)
            search.in_parts(3 * repetitions, partial(ask, level=level, sizes=sizes, narrows=narrows))
            if search.threat.norm == "l0":
                search.leave(rows.size <= 1)
                search.drop_leaving(search.x)

    return rule


def _within(search: Search[Sizes], points: Tensor) -> Tensor:
    """Return the points [n, C, ...] in the ball of size `rows.most`, which rounding may have left."""
    rows_of = torch.arange(len(points), device=points.device).repeat_interleave(points.shape[1])
    ball = search.threat.resized(search.rows.most)
    return ball.take(rows_of).project(points.flatten(0, 1), search.x[rows_of]).view_as(points)


def _keep(search: Search[Sizes], tried: Tensor, sizes: Tensor, narrows: Tensor, met: Tensor) -> None:
    """Keep the first success of each sample; `rows.low` is the largest size below it that has failed."""
    rows, row = search.rows, torch.arange(len(met), device=met.device)
    ends = torch.cat([rows.low[:, None], sizes, torch.full_like(rows.low, torch.inf)[:, None]], 1)
    first = torch.where(met.any(1), met.int().argmax(1), met.shape[1])[:, None]
    failed, size = ends.gather(1, first).squeeze(1), ends.gather(1, first + 1).squeeze(1)
    hit = size.isfinite()
    rows.low = torch.where(narrows, failed, torch.where(hit, 0.0, rows.low))
    rows.size = torch.where(hit, size, rows.size)
    rows.noise = torch.where(like(hit, rows.noise), tried[row, met.int().argmax(1)], rows.noise)


def scaled(search: Search[Sizes], noise: Tensor, sizes: Tensor) -> Tensor:
    """Return x + s * noise [n, C, ...], clamped to the box, with s such that its distance d(s) is `sizes`."""
    # the box cuts off more of a longer displacement, so s <- s * size / d(s) comes near without exceeding it
    x, (low, high) = search.x.unsqueeze(1), search.threat.box
    if search.problem.mask is not None:
        noise = noise.where(search.problem.mask.unsqueeze(1), 0.0)
    tiny, huge = torch.finfo(noise.dtype).tiny, math.sqrt(torch.finfo(noise.dtype).max)

    def length(away: Tensor) -> Tensor:
        return like(norm(away.flatten(0, 1), search.threat.order).view_as(sizes), away).clamp_min(tiny)

    wanted, points = like(sizes.to(noise.dtype), noise), torch.empty_like(noise)

    def moved(scale: Tensor) -> Tensor:
        return torch.mul(noise, scale, out=points).add_(x).clamp_(low, high)

    scale = wanted / length(noise)
    for _ in range(CORRECTIONS):
        scale = (scale * (wanted / length(moved(scale).sub_(x)))).clamp_max(huge)
    return moved(scale)


def ends(search: Search, noise: Tensor) -> Tensor:
    """Return [n, C, ...], the ends of the box that the signs of the noise name, and x outside the mask."""
    beyond = as_floats(torch.gt, noise, 0).sub_(0.5).mul_(torch.inf)
    return search.problem.masked(beyond.clamp_(*search.threat.box))


def flipped(search: Search, noise: Tensor, sizes: Tensor) -> Tensor:
    """Return x [n, C, ...] with the `sizes` [n, C] coordinates of the largest noise at the `ends`."""
    x, points = search.x.unsqueeze(1), ends(search, noise)
    loud = as_floats(torch.ne, points, x).mul_(noise).flatten(0, 1)
    kept = project_l0(loud, torch.zeros_like(loud), sizes.flatten(), NO_BOX)
    return x.lerp(points, kept.ne_(0).view_as(points))


GAUSSIAN = Noise("gaussian_noise", rng.normal, scaled)
UNIFORM = Noise("uniform_noise", signed, scaled)
SALT_AND_PEPPER = Noise("salt_and_pepper", signed, flipped, whole=True)


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Schott et al. 2018", tolerance=12)
@core.tested(quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10})
@core.takes_common(norms=("l2",), levels=1, repetitions=1)
def gaussian_noise(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, levels: int = 100,
    repetitions: int = 10, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the least Gaussian noise that changes the decision.

    Until a sample has a success, noises of all sizes are drawn. The size of a noise is its distance to x once
    it is clamped to the box. After a sample's first success, smaller noises are tried: the success is scaled
    down as far as it lasts; then fresh noise just smaller than the best is drawn until some succeeds, and so
    on.

    Args:
        threat: L2; the radius is inf, or the largest distance of interest. Radius or box must be finite.
        levels: how many batches of noises are tried, an integer >= 1; 100 of 10 are as many queries as the
            authors' foolbox takes. Until a sample has a success, they have the size of the radius or, where
            that is beyond the box, all sizes up to the box's farthest point.
        repetitions: noises in a batch, an integer >= 1; levels * repetitions samples pass the model for each
            image.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Schott et al. 2018 (arXiv 1805.09190), table 1.
    """
    rule = noise_rule(GAUSSIAN, threat, levels, repetitions)
    return core.run(model, x, y, threat, rule, rows=Sizes, minimum=True, seed=seed, **common)


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Rauber et al. 2017", tolerance=16)
@core.tested(quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10})
@core.takes_common(norms=("linf", "l2"), levels=1, repetitions=1)
def uniform_noise(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, levels: int = 100,
    repetitions: int = 10, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the least uniform noise that changes the decision.

    Each coordinate is uniform on both sides of zero. Until a sample has a success, noises of all sizes are
    drawn. The size of a noise is its distance to x once it is clamped to the box. After a sample's first
    success, smaller noises are tried: the success is scaled down as far as it lasts; then fresh noise just
    smaller than the best is drawn until some succeeds, and so on.

    Args:
        threat: Linf or L2; the radius is inf, or the largest distance of interest. Radius or box must be
            finite.
        levels: how many batches of noises are tried, an integer >= 1; 100 of 10 are as many queries as the
            authors' foolbox takes. Until a sample has a success, they have the size of the radius or, where
            that is beyond the box, all sizes up to the box's farthest point.
        repetitions: noises in a batch, an integer >= 1; levels * repetitions samples pass the model for each
            image.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Rauber et al. 2017 (arXiv 1707.04131).
    """
    rule = noise_rule(UNIFORM, threat, levels, repetitions)
    return core.run(model, x, y, threat, rule, rows=Sizes, minimum=True, seed=seed, **common)


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Schott et al. 2018", tolerance=18)
@core.tested(quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10})
@core.takes_common(norms=("l0",), levels=1, repetitions=1)
def salt_and_pepper(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, levels: int = 100,
    repetitions: int = 10, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the fewest random coordinates that, sent to random ends of the box, change the decision.

    Until a sample has a success, noises of all sizes are drawn. After that fewer coordinates are tried: of
    the success as few are kept as it needs, in the random order in which they came; then fresh noise of one
    coordinate less is drawn until some succeeds, and so on. Coordinates that lie at their end of the box
    already do not count.

    Args:
        threat: L0 with a finite box; the radius is inf, or the largest number of coordinates of interest.
        levels: how many batches of noises are tried, an integer >= 1; 100 of 10 are as many queries as the
            authors' foolbox takes. Until a sample has a success, they change as many coordinates as the
            radius allows or, where that is all, shares that are spread from few to all.
        repetitions: noises in a batch, an integer >= 1; levels * repetitions samples pass the model for each
            image.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Schott et al. 2018 (arXiv 1805.09190), table 1.
    """
    rule = noise_rule(SALT_AND_PEPPER, threat, levels, repetitions)
    return core.run(model, x, y, threat, rule, rows=Sizes, minimum=True, seed=seed, **common)
