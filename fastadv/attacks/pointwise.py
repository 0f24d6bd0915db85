"""Pointwise attack: noise whose coordinates go back to x one by one (Schott et al. 2018)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.core.problem import check_finite_box
from fastadv.attacks.methods.geometry import like, told, where_rows
from fastadv.attacks.methods.noise import signed
from fastadv.attacks.methods.start import Starts, check_starts, find_start
from fastadv.attacks.salt_and_pepper import ends
from fastadv.threat import Threat

# noises of growing size until one is a success; after the last of them the first comes again
LEVELS = 10
# the share of the coordinates left that a run tries at once, at first
SHARE = 0.25
# in L2, how often the part of the way that a coordinate goes back is halved
HALVINGS = 5


class _Rows(Starts):
    """What `_begin` describes."""

    best: Tensor
    changed: Tensor
    least: Tensor
    length: Tensor
    share: Tensor
    stage: Tensor


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Schott et al. 2018", tolerance=10)
@core.tested(quick={"queries": 100}, oracle={"queries": 300})
@core.takes_common(norms=("l0", "l2"), queries=1, restarts=1)
def pointwise(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    queries: int = 1000,
    starts: Tensor | None = None,
    restarts: int = 1,
    seed: int = 0,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the fewest changed coordinates, or the nearest success, that decisions alone lead to.

    A run starts at salt-and-pepper noise. In random order it takes changed coordinates back to x, several at
    once and fewer after each failure, for as long as the point stays a success. The order begins again after
    each success, until none of the coordinates can go back. In L2 they then go back by half of their way, a
    quarter and so on. With the queries left the run adds noise to its best point, and takes back anew.

    Args:
        threat: L0 or L2 with a finite box; the radius is inf, or the largest distance of interest.
        queries: the most points of each run that pass the model for each image, an integer >= 1; the paper
            has no limit.
        starts: floating like x, adversarial points of the box at which all runs start; None looks for
            salt-and-pepper noise that is one.
        restarts: runs with other random numbers, an integer >= 1, of which the best counts; the paper has 10
            in L0.

    Source:
        Schott et al. 2018 (arXiv 1805.09190).
    """
    check_finite_box("pointwise", threat)
    check_starts("pointwise", starts, x, threat)
    rule = _rule(starts, queries, restarts)
    return core.run(model, x, y, threat, rule, rows=_Rows, minimum=True, seed=seed, **common)


def _rule(starts: Tensor | None, queries: int, restarts: int) -> core.Rule[_Rows]:
    """Return `restarts` runs at once that take coordinates back to x, and add noise where none will go.

    At first a quarter of the coordinates left goes back, half as many after each failure, and in the first
    pass twice as many after each success. In L2 they then go half of their way, a quarter and so on. With the
    queries left, a run adds fresh noise to its best point and takes back as before; it goes on from where
    that ends, unless that is farther.
    """

    def rule(search: core.Search[_Rows]) -> None:
        first = _begin(search, starts, restarts)
        own, size = rng.derive(search.seed, "pointwise"), restarts * search.x[0].numel()
        for query in range(first, queries):
            if search.threat.norm == "l0":  # one coordinate cannot be bettered
                search.leave(search.best.distance <= 1)
                search.drop_leaving(search.x)
            noise = signed(size, own, search.ids, query).to(search.x.dtype).view_as(search.rows.points)
            _pass_on(search, _try_several(search, noise, (query % LEVELS + 1) / LEVELS))

    return rule


def _begin(search: core.Search[_Rows], starts: Tensor | None, runs: int) -> int:
    """Let each run begin at x, or at the caller's starts; return the queries spent.

    Of each run [n, runs, ...], `rows.points` is where it is, at distance `rows.length`. With 1 and 0,
    `rows.changed` says where that is not x, and `rows.left` which coordinates it has yet to try. `rows.best`
    is where it comes back to, at distance `rows.least`. `rows.stage` is how often the part that goes back has
    been halved, and inf where it adds noise.
    """
    rows = search.rows
    rows.points = search.x
    if starts is not None:
        find_start(search, starts, 1)
    rows.points = rows.points.unsqueeze(1).repeat_interleave(runs, 1)
    rows.changed = rows.left = told(torch.ne, rows.points, search.x.unsqueeze(1))
    rows.length = search.distance(rows.points)
    rows.best, rows.least = rows.points, torch.full_like(rows.length, torch.inf)
    rows.share = torch.full_like(rows.length, SHARE)
    rows.stage = torch.full_like(rows.length, torch.inf if starts is None else 0)
    return 0 if starts is None else 1


def _try_several(search: core.Search[_Rows], noise: Tensor, level: float) -> Tensor:
    """Let each run add noise (at x, of the level), or take some coordinates back; keep what is a success.

    Returns bool [n, runs], for which the order begins anew.
    """
    rows, x, far = search.rows, search.x.unsqueeze(1), ends(search, noise)
    adds = rows.stage.isinf()
    free = told(torch.ne, far, x) * (1 - rows.changed)
    count = rows.changed.flatten(2).sum(2)
    as_many = torch.where(count > 0, count / free.flatten(2).sum(2), level)
    chosen = _some(where_rows(adds, free, rows.left), noise, torch.where(adds, as_many, rows.share))
    # all of the way, where it adds
    to = x.lerp(where_rows(adds, far, rows.points), like(1 - 0.5**rows.stage, x))
    look = search.decide(rows.points.lerp(to, chosen))
    met = look.adversarial
    gains = met & (adds | (look.distance < rows.length))
    rows.points = where_rows(met, look.seen, rows.points)
    rows.length = torch.where(met, look.distance, rows.length)
    alone = ~adds & ~gains & (chosen.flatten(2).sum(2) == 1)
    rows.left = rows.left.addcmul(chosen, like(alone.to(x.dtype), x), value=-1)
    rows.stage = torch.where(adds & met, 0, rows.stage)
    # until the first pass is over, many can go back
    more = torch.where(rows.least.isinf(), (2 * rows.share).clamp_max(SHARE), rows.share)
    rows.share = torch.where(adds, SHARE, torch.where(gains, more, rows.share / 2))
    return gains & (rows.stage == 0)


def _some(of: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """Return [n, C, ...], 1 at a random share [n, C] of the coordinates `of`, about, and at one at least."""
    loud = noise.abs().mul_(of)
    least = torch.minimum(1 - share, loud.flatten(2).amax(2)).clamp_min(torch.finfo(of.dtype).tiny)
    return loud.ge_(like(least, loud))


def _pass_on(search: core.Search[_Rows], anew: Tensor) -> None:
    """Runs that have tried all coordinates pass on to the next stage, after the last to their best point.

    Then, and where `anew` bool [n, runs] says so, all coordinates are yet to try.
    """
    rows = search.rows
    last = HALVINGS if search.threat.norm == "l2" else 0
    over = rows.stage.isfinite() & (rows.left.flatten(2).amax(2) == 0) & ~anew
    rows.stage = rows.stage + over.to(rows.stage.dtype)
    returns = over & (rows.stage > last)
    better = returns & (rows.length <= rows.least)
    rows.best = where_rows(better, rows.points, rows.best)
    rows.least = torch.where(better, rows.length, rows.least)
    rows.points = where_rows(returns, rows.best, rows.points)
    rows.length = torch.where(returns, rows.least, rows.length)
    rows.stage = torch.where(returns, torch.inf, rows.stage)
    rows.changed = told(torch.ne, rows.points, search.x.unsqueeze(1))
    rows.left = where_rows(anew | over, rows.changed, rows.left)
