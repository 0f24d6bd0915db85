"""Pointwise attack: noise whose coordinates go back to x one by one (Schott et al. 2018)."""

from itertools import count
from sys import maxsize
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import as_floats, like, where_rows
from fastadv.attacks.methods.start import Starts, check_starts, find_start, spend
from fastadv.attacks.noises import ends, signed
from fastadv.threat import Threat
from fastadv.threat.checks import check_finite_box

# published runs in L0 where none are given
RESTARTS = 10
# noises that look for a start change so many shares of the coordinates, from few to all, again and again
LEVELS = 100
# the bisections in L2 between x and the value of a coordinate
HALVINGS = 10


class _Pixels(Starts):
    """The coordinates of a pass over the changed ones."""

    untried: Tensor  # [n, D], yet to try
    index: Tensor  # [n, 1] of the one that is tried
    failed: Tensor  # its value that has failed
    halvings: Tensor  # how often it was bisected
    bisects: Tensor  # whether the passes do
    improved: Tensor  # whether this one has brought something


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Schott et al. 2018", tolerance=10)
@core.tested(quick={"queries": 100}, oracle={"queries": 300})
@core.takes_common(norms=("l0", "l2"), queries=1, restarts=1)
def pointwise(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int | None = None,
    variant: core.Variant = "fastadv", starts: Tensor | None = None, restarts: int | None = None,
    seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the fewest changed coordinates, or the nearest success, that decisions alone lead to.

    A run starts at salt-and-pepper noise. In random order it takes changed coordinates back to x, for as long
    as the point stays a success. The order begins again after each success, until none of the coordinates can
    go back. In L2 the displacement of each coordinate is then bisected, in random order, until a round
    improves nothing.

    Args:
        threat: L0 or L2 with a finite box; the radius is inf, or the largest distance of interest.
        queries: the most points of each run that pass the model for each image, an integer >= 1. None is
            1,000; in the published variant runs end when nothing can go back.
        starts: floating like x, adversarial points of the box at which all runs start; None looks for
            salt-and-pepper noise that is one.
        restarts: runs with other random numbers, an integer >= 1, of which the best counts. None is 10 in L0
            if published, as in the paper, and else 1.
        variant: "fastadv", or "published" for the algorithm of the paper; docs/departures.md compares them.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Schott et al. 2018 (arXiv 1805.09190).
    """
    check_finite_box("pointwise", threat)
    check_starts(starts, x, threat)
    published = variant == "published"
    if restarts is None:
        restarts = RESTARTS if published and threat.norm == "l0" else 1
    how: dict[str, Any] = {"minimum": True, "seed": seed, **common}
    if published:
        return core.run(model, x, y, threat, _rule(starts, queries), rows=_Pixels, restarts=restarts, **how)
    rule = _ours(starts, QUERIES if queries is None else queries, restarts)
    return core.run(model, x, y, threat, rule, rows=_OurRows, **how)


def _rule(starts: Tensor | None, queries: int | None) -> core.Rule[_Pixels]:
    """Return passes over the changed coordinates, each of which goes back to x where a success lasts."""
    # A pass without a success is the last (Schott et al. 2018, section 5). In L2 further ones bisect between
    # x and the value of each coordinate, as in the authors' foolbox 1.

    def rule(search: core.Search[_Pixels]) -> None:
        rows = search.rows
        left = find_start(search, starts, maxsize if queries is None else queries, _salt_and_pepper)
        rows.untried = (rows.points != search.x).flatten(1)
        rows.index = torch.zeros_like(rows.left)[:, None]
        rows.halvings, rows.failed = rows.index, torch.zeros_like(rows.points.flatten(1)[:, :1])
        rows.bisects = rows.improved = torch.zeros_like(rows.left, dtype=torch.bool)
        for query in count():
            _end_pass(search)
            if not left:
                return
            left = spend(search, 1, left)
            search.drop_leaving(search.x)
            _try(search, query)

    return rule


def _salt_and_pepper(search: core.Search, draw: int) -> Tensor:
    """Return [n, 1, ...]: x with a share of its coordinates at the ends of the box; more in each round."""
    low, high = search.x.new_tensor(search.threat.box)
    noise = signed(search.x[0].numel(), rng.derive(search.seed, "start", search.restart), search.ids, draw)
    share = (draw % LEVELS + 1) / LEVELS
    ends = torch.where(noise > 0, high, low)
    return torch.where(noise.abs() >= 1 - share, ends, search.x.flatten(1)).view_as(search.x).unsqueeze(1)


def _try(search: core.Search[_Pixels], query: int) -> None:
    """Ask about one coordinate of each sample: the one in x, or between what it is and failed."""
    rows = search.rows
    seed = rng.derive(search.seed, "pointwise", search.restart)
    noise = rng.uniform(search.x[0].numel(), seed, search.ids, query)
    fresh = rows.halvings == 0
    # a random one of those untried: the next one of a random order
    chosen = noise.masked_fill(~rows.untried, -1.0).argmax(1, keepdim=True)
    rows.index = torch.where(fresh, chosen, rows.index)
    points, x = rows.points.flatten(1), search.x.flatten(1)
    clean, value = x.gather(1, rows.index), points.gather(1, rows.index)
    asked = torch.where(fresh, clean, (value + rows.failed) / 2)
    look = search.decide(points.scatter(1, rows.index, asked).view_as(search.x))
    met = look.adversarial[:, None]
    rows.points = torch.where(met, look.x_adv.flatten(1), points).view_as(search.x)
    rows.failed = torch.where(met, rows.failed, asked)
    rows.improved = rows.improved | look.adversarial
    # the next coordinate follows without bisection, or if x itself will do
    over = fresh & (met | ~rows.bisects[:, None])
    rows.halvings = torch.where(over, 0, (rows.halvings + 1) % (HALVINGS + 1))
    tried = torch.zeros_like(rows.untried).scatter(1, rows.index, rows.halvings == 0)
    anew = met & ~rows.bisects[:, None]
    rows.untried = torch.where(anew, (rows.points != search.x).flatten(1), rows.untried & ~tried)


def _end_pass(search: core.Search[_Pixels]) -> None:
    """Begin the next pass where all coordinates are tried; samples for which there is none leave."""
    rows = search.rows
    over = ~rows.untried.any(1)
    search.leave(over & (rows.bisects & ~rows.improved if search.threat.norm == "l2" else over))
    rows.bisects = rows.bisects | over
    rows.improved = rows.improved & ~over
    rows.untried = torch.where(over[:, None], (rows.points != search.x).flatten(1), rows.untried)


# The fastadv variant (docs/departures.md).

# queries of a run where none are given; the paper has no limit
QUERIES = 1000
# noises of growing size until one is a success; after the last of them the first comes again
OUR_LEVELS = 10
# the share of the coordinates left that a run tries at once, at first
SHARE = 0.25
# halvings, in L2, of the part of the way that a coordinate goes back
OUR_HALVINGS = 5


class _OurRows(Starts):
    """What `_begin` describes."""

    best: Tensor
    changed: Tensor
    least: Tensor
    length: Tensor
    share: Tensor
    stage: Tensor


def _ours(starts: Tensor | None, queries: int, restarts: int) -> core.Rule[_OurRows]:
    """Return `restarts` runs at once that take coordinates back to x, and add noise where none will go."""
    # At first a quarter of the coordinates left goes back, half as many after each failure, in the first pass
    # twice as many after a success; in L2 then half of their way, a quarter and so on.

    def rule(search: core.Search[_OurRows]) -> None:
        first = _begin(search, starts, restarts)
        stream, size = rng.derive(search.seed, "pointwise"), restarts * search.x[0].numel()
        for query in range(first, queries):
            if search.threat.norm == "l0":  # one coordinate cannot be bettered
                search.leave(search.best.distance <= 1)
                search.drop_leaving(search.x)
            noise = signed(size, stream, search.ids, query).to(search.x.dtype).view_as(search.rows.points)
            _pass_on(search, _try_several(search, noise, (query % OUR_LEVELS + 1) / OUR_LEVELS))

    return rule


def _begin(search: core.Search[_OurRows], starts: Tensor | None, runs: int) -> int:
    """Let each run begin at x, or at the caller's starts; return the queries spent."""
    # `changed` says where points are not x, `left` what is yet to try; `stage` is how often the part that
    # goes back has been halved, inf where noise is added
    rows = search.rows
    rows.points = search.x
    if starts is not None:
        find_start(search, starts, 1)
    rows.points = rows.points.unsqueeze(1).repeat_interleave(runs, 1)
    rows.changed = rows.left = as_floats(torch.ne, rows.points, search.x.unsqueeze(1))
    rows.length = search.distance(rows.points)
    rows.best, rows.least = rows.points, torch.full_like(rows.length, torch.inf)
    rows.share = torch.full_like(rows.length, SHARE)
    rows.stage = torch.full_like(rows.length, torch.inf if starts is None else 0)
    return 0 if starts is None else 1


def _try_several(search: core.Search[_OurRows], noise: Tensor, level: float) -> Tensor:
    """Let each run add noise or take coordinates back; return bool [n, runs], whose order begins anew."""
    rows, x, far = search.rows, search.x.unsqueeze(1), ends(search, noise)
    adds = rows.stage.isinf()
    free = as_floats(torch.ne, far, x) * (1 - rows.changed)
    count = rows.changed.flatten(2).sum(2)
    as_many = torch.where(count > 0, count / free.flatten(2).sum(2), level)
    chosen = _some(where_rows(adds, free, rows.left), noise, torch.where(adds, as_many, rows.share))
    # all of the way, where it adds
    to = x.lerp(where_rows(adds, far, rows.points), like(1 - 0.5**rows.stage, x))
    look = search.decide(rows.points.lerp(to, chosen))
    met = look.adversarial
    gains = met & (adds | (look.distance < rows.length))
    rows.points = where_rows(met, look.x_adv, rows.points)
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


def _pass_on(search: core.Search[_OurRows], anew: Tensor) -> None:
    """Runs that have tried all coordinates pass on to the next stage, after the last to their best point."""
    rows = search.rows
    last = OUR_HALVINGS if search.threat.norm == "l2" else 0
    over = rows.stage.isfinite() & (rows.left.flatten(2).amax(2) == 0) & ~anew
    rows.stage = rows.stage + over.to(rows.stage.dtype)
    returns = over & (rows.stage > last)
    better = returns & (rows.length <= rows.least)
    rows.best = where_rows(better, rows.points, rows.best)
    rows.least = torch.where(better, rows.length, rows.least)
    rows.points = where_rows(returns, rows.best, rows.points)
    rows.length = torch.where(returns, rows.least, rows.length)
    rows.stage = torch.where(returns, torch.inf, rows.stage)
    rows.changed = as_floats(torch.ne, rows.points, search.x.unsqueeze(1))
    rows.left = where_rows(anew | over, rows.changed, rows.left)
