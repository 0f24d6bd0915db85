"""Pointwise attack: noise whose coordinates go back to x one by one (Schott et al. 2018)."""

from itertools import count
from sys import maxsize
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import _pointwise, core
from fastadv.attacks.core.problem import check_finite_box
from fastadv.attacks.methods.noise import signed
from fastadv.attacks.methods.start import Starts, check_starts, find_start, spend
from fastadv.threat import Threat

# published runs in L0 where none are given
RESTARTS = 10
# noises that look for a start change so many shares of the coordinates, from few to all, again and again
LEVELS = 100
# in L2, the bisections between x and the value of a coordinate
HALVINGS = 10


class _Pixels(Starts):
    """The coordinates [n, D] that are yet to try in this pass; the `index` int64 [n, 1] of the one that is
    tried, its value [n, 1] that has failed, and how often it was bisected, int64 [n, 1]. Whether the passes
    bisect, bool [n], and whether this one has brought something, bool [n].
    """

    untried: Tensor
    index: Tensor
    failed: Tensor
    halvings: Tensor
    bisects: Tensor
    improved: Tensor


@core.takes_common(norms=("l0", "l2"), queries=1, restarts=1)
def pointwise(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    queries: int | None = None,
    variant: core.Variant = "fastadv",
    starts: Tensor | None = None,
    restarts: int | None = None,
    seed: int = 0,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the fewest changed coordinates, or the nearest success, that decisions alone lead to.

    A run starts at salt-and-pepper noise. In random order it takes changed coordinates back to x, for as long
    as the point stays a success. The order begins again after each success, until none of the coordinates can
    go back. In L2 the displacement of each coordinate is then bisected, in random order, until a round
    improves nothing.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. Only decisions are used.
        threat: L0 or L2 with a finite box; the radius is inf, or the largest distance of interest.
        queries: the most points of each run that pass the model for each image, an integer >= 1. None is
            1,000; in the published variant runs end when nothing can go back.
        starts: floating like x, adversarial points of the box at which all runs start; None looks for
            salt-and-pepper noise that is one. A sample without such a point counts as held.
        restarts: runs with other random numbers, an integer >= 1, of which the best counts; their points pass
            the model together, published one after the other. None is 10 in L0 if published, as in the paper,
            and else 1: fresh noise does more than another run.

    Raises:
        InputError: an argument is wrong, or a start is not adversarial; the message names it.

    Source:
        Schott et al. 2018 (arXiv 1805.09190).
    """
    check_finite_box("pointwise", threat)
    check_starts("pointwise", starts, x, threat)
    published = variant == "published"
    if restarts is None:
        restarts = RESTARTS if published and threat.norm == "l0" else 1
    how: dict[str, Any] = {"minimum": True, "seed": seed, **common}
    if published:
        return core.run(model, x, y, threat, _rule(starts, queries), rows=_Pixels, restarts=restarts, **how)
    rule = _pointwise.rule(starts, _pointwise.QUERIES if queries is None else queries, restarts)
    return core.run(model, x, y, threat, rule, rows=_pointwise.Rows, **how)


def _rule(starts: Tensor | None, queries: int | None) -> core.Rule[_Pixels]:
    """Return passes over the changed coordinates, each of which goes back to x where a success lasts.

    In a random order each is tried alone. After a success the order begins anew; a pass without one is the
    last (Schott et al. 2018, section 5). In L2 further passes then bisect between x and the value of each
    coordinate, until a pass brings nothing, as in the authors' foolbox 1. With None there is no end before.
    """

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
    rows.points = torch.where(met, look.seen.flatten(1), points).view_as(search.x)
    rows.failed = torch.where(met, rows.failed, asked)
    rows.improved = rows.improved | look.adversarial
    # without bisection, or where x itself will do, the next coordinate follows
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
