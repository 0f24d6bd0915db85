"""Sparse-RS: random search over sets of coordinates (Croce et al. 2022)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_share
from fastadv.attacks import core
from fastadv.attacks.core.record import Climb
from fastadv.attacks.core.task import handed
from fastadv.attacks.methods.random_search import ends_behind, random_search, search_loss
from fastadv.ops.sparse_rs import sparse_rs as exchanged
from fastadv.threat import Threat
from fastadv.threat.checks import check_finite_box

# after so many queries, of 10,000, the share is divided by the number below
ENDS = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
DIVISORS = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)


class _Rows(Climb):
    """With the size [n] of each sample's set, and how many of it the next query exchanges."""

    count: Tensor
    leaving: Tensor


@core.registered(knowledge="score", random=True, paper="Croce et al. 2022")
@core.tested(quick={"queries": 30}, oracle={"queries": 3000})
@core.takes_common(norms=("l0",), finite=True, queries=0)
def sparse_rs(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int = 10_000,
    share: float = 0.8, rescale: bool = True, restarts: int = 1, stop_early: bool = True, seed: int = 0,
    **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Maximize margin(model(z), y) over z that differ from x in few coordinates, by random search on logits.

    A point is a set of coordinates, each at an end of the box. A query sends some of the set back to x and as
    many others to an end, and is kept where it raises the loss. How many are exchanged falls along the
    schedule of the paper, to one. A coordinate always goes to an end where it is not, where the paper draws
    one of the two. The paper counts pixels; here the channels of a pixel are coordinates of their own. The
    loss is the margin of the criterion; where targets are given without a criterion, the cross-entropy.

    Args:
        threat: L0; the radius, finite, is the number of coordinates, a number or [B]; the box is finite.
        queries: points tried in each restart; 0 leaves x as it is. 10,000 as in the paper, where no targets
            are given.
        share: `alpha_init` of the paper, in (0, 1]: the first queries exchange half this share of the set.
            0.8 is that of the authors' class; the paper takes 0.3.
        rescale: whether the schedule, made for 10,000 queries, is stretched to `queries`, as in the paper.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Croce et al. 2022, "Sparse-RS" (arXiv 2006.12834), algorithms 1 and 2.
    """
    check_share("share", share, one=True)
    check_finite_box("sparse_rs", threat)

    def rule(search: core.Search[_Rows]) -> None:
        sets = _Sets(search)

        def propose(search: core.Search[_Rows], query: int) -> Tensor:
            return sets.propose(search, _share(query, queries, share, rescale), query)

        random_search(search, queries, sets.start, propose)

    return core.run(
        model, x, y, threat, rule, rows=_Rows, loss=search_loss(handed(model)), restarts=restarts,
        stop_early=stop_early, seed=seed, **common,
    )  # fmt: skip


def _share(query: int, queries: int, share: float, rescale: bool) -> float:
    return share / DIVISORS[ends_behind(query, queries, ENDS, rescale)]


class _Sets:
    """Points that differ from x in as many coordinates as the ball allows, each at an end of the box."""

    def __init__(self, search: core.Search[_Rows]) -> None:
        self.seed = rng.derive(search.seed, "sparse_rs", search.restart)
        # the whole of which `rows.leaving` is a share
        self.leaving: tuple[core.Search[_Rows], float] | None = None

    def start(self, search: core.Search[_Rows]) -> Tensor:
        rows, x = search.rows, search.x
        radius = torch.as_tensor(search.threat.radius, dtype=torch.float64, device=x.device)
        rows.count = radius.floor().clamp(max=x[0].numel()).long().expand(len(x)).clone()
        rows.leaving = torch.zeros_like(rows.count)
        return self._exchange(search, x, 0)

    def propose(self, search: core.Search[_Rows], share: float, query: int) -> Tensor:
        """Return the best points with a share of their sets exchanged, at least one coordinate."""
        rows, leaving = search.rows, (search, share)
        if leaving != self.leaving:
            self.leaving, rows.leaving = leaving, (share * rows.count).long().clamp(min=1)
        return self._exchange(search, rows.best, query)

    def _exchange(self, search: core.Search[_Rows], points: Tensor, query: int) -> Tensor:
        """Return `points` with `rows.leaving` coordinates back at x, others at an end: a full set."""
        rows, rest = search.rows, (search.threat.box, self.seed, query, search.problem.mask)
        return exchanged(points, search.x, search.ids, rows.leaving, rows.count, *rest)
