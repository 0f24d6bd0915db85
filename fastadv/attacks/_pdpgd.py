"""What this library changes of PDPGD (`pdpgd.py`): it explores by proximal Adam and then refines."""

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks import core
from fastadv.attacks._primal_dual import MOMENTUM, primal_dual
from fastadv.attacks.methods.geometry import like, shorten_, width
from fastadv.ops._rows import NO_BOX

FIRST_WEIGHT = {"linf": 0.3, "l2": 0.3, "l1": 0.1, "l0": 0.3}
FIRST_STEP = {"linf": 1.0, "l2": 1.0, "l1": 3.0, "l0": 30.0}
LAST_STEP = {"linf": 0.01, "l2": 0.01, "l1": 0.01, "l0": 1.0}
# the share of the steps that explore by proximal Adam; how many at least refine, unless fewer than the last
# number, or than that share, were left to explore
ADAPTIVE = {"l2": 0.6, "l1": 0.5, "l0": 0.6}
REFINING, FEWEST = {"l2": 40, "l0": 100}, {"l2": 12}


def rule(norm: str, steps: int, step_size: float, weight: float, loss: losses.Loss | None) -> core.Rule:
    """Return the rule for this norm."""
    exploring = _exploring(norm, steps)

    def rule(search: core.Search) -> None:
        primal_dual(
            search, _descend, steps=steps, step_size=step_size, last_step=LAST_STEP[norm], weight=weight,
            loss=loss, exploring=exploring,
        )  # fmt: skip

    return rule


def _exploring(norm: str, steps: int) -> int:
    """Return how many of the steps explore."""
    most = int(ADAPTIVE.get(norm, 0.0) * steps)
    return min(most, max(steps - REFINING.get(norm, 0), FEWEST.get(norm, 0)))


def _descend(search: core.Search, force: Tensor, length: Tensor) -> Tensor:
    rows = search.rows
    rows.mean.lerp_(force, 1 - MOMENTUM)
    ahead = torch.addcmul(rows.away, like(length, force).to(force.dtype), rows.mean)
    return _proximal(search, ahead, (length * rows.weight).to(force.dtype))


def _proximal(search: core.Search, away: Tensor, by: Tensor) -> Tensor:
    """Return argmin over z of ||z - away||_2^2 / 2 + by * ||z||, for each sample; by [n]."""
    kind = search.threat.norm
    if kind == "l0":
        return _sparse(search, away, by)
    if kind == "linf":  # what a projection on the ball of the dual norm leaves (Moreau)
        rest = ops.project_l1(away, torch.zeros_like(away), by * away[0].numel(), NO_BOX)
        return away.sub_(rest)
    if kind == "l2":
        return shorten_(away, by)
    return away.abs().sub_(like(by, away)).clamp_min_(0.0).copysign_(away)


def _sparse(search: core.Search, away: Tensor, by: Tensor) -> Tensor:
    """Return it inside the box for L0: the coordinates that gain enough, fewer than before in refining."""
    x = search.x.to(away.dtype)
    further = x + away
    inside = further.clamp(*search.threat.box) - x
    gain = inside * (2 * away - inside)
    worth = gain > like(2 * width(search.threat) * by, gain)
    count = worth.flatten(1).sum(1).to(search.best.rank.dtype)
    if search.rows.refining:
        count = count.minimum(search.best.distance - 1).clamp_min_(0.0)
    return ops.project_l0(further, x, count, search.threat.box).sub_(x)
