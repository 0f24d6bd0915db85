"""What this library changes of the elastic-net attack (`ead.py`), to spend fewer passes."""

import torch
from torch import Tensor

from fastadv import ops
from fastadv.attacks import core
from fastadv.attacks.methods import constant_search
from fastadv.attacks.methods.constant_search import Constants
from fastadv.attacks.methods.geometry import like

# beta in widths of the box: the L1 norm then outweighs the squared distance even of pixels that cross it
BETA = 10.0
# the first constant, as a multiple of what a linear model needs
FIRST = 4.0
# the first step of the steepest pixel, over the expected distance
STEP = 0.1
# the least gradient that may decide in a linear model, as a share of the largest: a pixel that hardly counts
# says nothing about the constant
FLATTEST = 0.3
# a finite stand-in for the room of a pixel in a box without edges
FAR = 1e15


class Rows(Constants):
    before_step: Tensor
    points: Tensor
    length: Tensor
    share: Tensor
    steepest: Tensor


def rule(
    steps: int, searches: int, weight: float, constant: float | None, step_size: float, edge: float
) -> core.Rule[Rows]:
    """Return the rule for a box of this width; `weight` is beta, and `step_size` how far the steepest pixel
    moves, as a share of the expected distance.
    """

    def rule(search: core.Search[Rows]) -> None:
        rows, margin = search.rows, search.problem.margin
        constant_search.reset(search)
        for number in range(searches):
            constant_search.begin_run(search)
            rows.points = rows.before_step = search.x
            # a sample without a success is stuck where small steps led it
            far = max(step_size, 1.0) if number else step_size
            rows.share = torch.where(search.best.success, step_size, far)
            for step in range(steps):
                look = search.gradient(rows.points, margin)
                steepest = ops.largest(look.gradient)
                if not (number or step):
                    constant_search.set_first(search, _needed(search, look, weight), FIRST, constant)
                    rows.steepest, rows.length = steepest, -look.loss / steepest
                rows.hit |= look.adversarial
                torch.maximum(rows.steepest, steepest, out=rows.steepest)
                first = rows.share * rows.length.nan_to_num(edge).clamp_max(edge)
                rate = first * (1 - step / steps) / (rows.constant * rows.steepest)
                rate = like(rate.nan_to_num(0.0, 0.0), search.x).to(search.x.dtype)
                _advance(search, look.gradient * constant_search.force(search, look), rate, step)
            rows.hit |= search.decide(rows.before_step).adversarial
            rows.length = torch.where(search.best.success, search.best.distance, rows.length)
            search.leave(constant_search.bisect(search))

    def _advance(search: core.Search[Rows], push: Tensor, rate: Tensor, step: int) -> None:
        """Take a proximal step from `rows.points`, then the momentum that leads to the next ones."""
        rows, box = search.rows, search.threat.box
        away = rows.points - search.x
        away = away.addcmul_(push.sub_(away, alpha=2), rate)
        shrunk = away.sign() * (away.abs() - rate * weight).clamp_min_(0)
        reached = (search.x + shrunk).clamp_(*box)
        rows.points = reached.lerp(rows.before_step, -(step + 1) / (step + 4)).clamp_(*box)
        rows.before_step = reached

    return rule


def _needed(search: core.Search[Rows], look: core.GradientLook, weight: float) -> Tensor:
    """Return [n], the constant that a linear model needs: that for the L1 norm plus that for the square.

    The first moves the steepest pixels to the edge of the box, so that the last of them decides, or one of
    `FLATTEST` times the largest gradient where the last has less.
    """
    low, high = search.threat.box
    room = torch.where(look.gradient > 0, high - search.x, search.x - low).clamp_max(FAR).flatten(1)
    # in float64, where the squares of huge and tiny gradients have room
    steep, order = look.gradient.double().abs().flatten(1).sort(1, descending=True)
    gap = -look.loss[:, None]
    count = ((steep * room.gather(1, order)).cumsum(1) < gap).sum(1, keepdim=True)
    last = steep.gather(1, count.clamp_max(steep.shape[1] - 1)).maximum(FLATTEST * steep[:, :1])
    return (
        (weight / last + 2 * gap / steep.square().sum(1, keepdim=True)).squeeze(1).to(search.best.rank.dtype)
    )
