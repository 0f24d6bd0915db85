"""Sigma-zero, a gradient attack for the fewest coordinates (Cinà et al. 2025)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import check_share
from fastadv.attacks import core
from fastadv.attacks.methods.adam import Moments, adam
from fastadv.attacks.methods.geometry import cosine, like, positive, width
from fastadv.threat import Threat

LAST_STEP = 0.1
EPSILON = 1e-8
RATE = 0.01  # how much the threshold changes at a step, as a share of the step
PUT_BACK = 15  # steps for each coordinate that is put back at the end


class _Rows(Moments):
    threshold: Tensor
    points: Tensor
    fewer: Tensor
    size: Tensor
    scale: Tensor


@core.registered(kind="minimum", paper="Cinà et al. 2025")
@core.tested(quick={"steps": 40}, oracle={"steps": 150})
@core.takes_common(norms=("l0",), steps=1)
def sigma_zero(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 1000,
    step_size: float | None = None, sigma: float = 1e-3, threshold: float = 0.3,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Find the success that changes the fewest coordinates, by descent on a smooth count of those changed.

    The loss is max(-margin, 0) + mean_i d_i^2 / (d_i^2 + sigma). Its gradient, divided by its largest
    element, moves d by a step of Adam; then d is clipped to the box, and coordinates below the threshold are
    set to 0. The threshold rises where the last point is a success and falls elsewhere. The step falls along
    a cosine to a tenth of `step_size`. What is not in the paper is in docs/departures.md.

    Args:
        threat: L0; its radius is inf or the largest number of coordinates of interest, a number or [B].
        steps: gradients for each sample, an integer >= 1; 1,000 as in the paper.
        step_size: the first step, > 0, in input units; None is the width of the box (1 if that is infinite).
        sigma: the square of the displacement that counts half, > 0, as a share of the box's squared width.
        threshold: the first threshold, in [0, 1], as a share of the width of the box.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Cinà et al. 2025, "Sigma-zero" (arXiv 2402.01879), algorithm 1.
    """
    # the search runs in units of the box
    unit = width(threat)
    step_size = positive("step_size", step_size, unit) / unit
    sigma = positive("sigma", sigma, 1.0)
    check_share("threshold", threshold, zero=True, one=True)

    def rule(search: core.Search[_Rows]) -> None:
        rows = search.rows
        rows.threshold = search.full(threshold)
        points = search.start()
        size = step_size
        for step in range(search.steps):
            look = search.gradient(points, search.problem.margin)
            if not step:
                rows.scale = unit / look.loss.abs().where(look.loss != 0, 1.0)  # 0 is a tie
            away = (look.x_adv - search.x).div_(unit)
            count = (away.square() + sigma).square_().reciprocal_().mul_(away)
            # a positive margin's part of the loss is flat; what descends it ascends the margin
            pull = like(torch.where(look.loss < 0, rows.scale, 0.0), away) * look.gradient
            descent = pull.sub_(count, alpha=2 * sigma / away[0].numel())
            descent /= like(ops.largest(descent), descent).clamp_min(torch.finfo(away.dtype).tiny)
            away += size * adam(rows, descent, step, EPSILON)
            points = away.mul_(unit).add_(search.x).clamp_(*search.threat.box)
            # the next step, by which the threshold moves already, as in the authors' code
            size = step_size * cosine(step + 1, search.steps, LAST_STEP)
            change = torch.where(look.adversarial, RATE * size, -RATE * size)
            rows.threshold = (rows.threshold + change).clamp_(0, 1)
            small = (points - search.x).abs_() < like(rows.threshold * unit, points)
            points = torch.where(small, search.x, points)
        search.finish(points)
        _put_back(search, search.steps // PUT_BACK)

    return core.run(model, x, y, threat, rule, rows=_Rows, steps=steps, minimum=True, **common)


def _put_back(search: core.Search[_Rows], count: int) -> None:
    """Set `count` changed coordinates of each best success back to x, one by one, where it lasts without."""
    rows = search.rows
    search.leave(~search.best.success)
    rows.points = search.best.x_adv.flatten(1)
    size = (rows.points - search.x.flatten(1)).abs()
    rows.size = torch.where(size > 0, size, torch.inf)
    for _ in range(count):
        place = rows.size.argmin(1, keepdim=True)
        rows.fewer = rows.points.scatter(1, place, search.x.flatten(1).gather(1, place))
        rows.size.scatter_(1, place, torch.inf)
        look = search.decide(rows.fewer.view(search.x.shape))
        rows.points = torch.where(look.adversarial[:, None], rows.fewer, rows.points)
