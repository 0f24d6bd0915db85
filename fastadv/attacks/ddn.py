"""DDN, the decoupled direction and norm attack (Rony et al. 2019)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops, rng
from fastadv._checks import check_share
from fastadv._waiting import waits
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import advance, cosine, farthest, like, norm, positive, width
from fastadv.threat import Threat

# the last step over the first
LAST_STEP = 0.01


class _Rows(core.Rows):
    """The radius [n] of each sample's ball, and the largest that makes sense."""

    norm: Tensor
    most: Tensor


@core.registered(kind="minimum", paper="Rony et al. 2019")
@core.tested(quick={"steps": 40}, oracle={"steps": 100})
@core.takes_common(norms=("l2",), steps=1)
def ddn(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 1000,
    step_size: float | None = None, gamma: float = 0.05, first_norm: float | None = None,
    loss: losses.Loss | None = None, seed: int = 0, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Find the success nearest to x in L2, by gradient ascent on spheres around x that shrink and grow.

    d <- d + a g / ||g||_2; r <- (1 - gamma) r where the last point is a success, else (1 + gamma) r; d <- r d
    / ||d||_2, and x + d is clipped to the box. The step a falls from `step_size` to a hundredth of it along a
    cosine. Where the gradient is zero, d is fresh Gaussian noise of norm r.

    Args:
        threat: L2; the radius is inf or the largest distance of interest, a number or [B].
        steps: gradients for each sample, an integer >= 1; the paper has 100, 300 and 1,000.
        step_size: the first step, > 0, in input units; None is the width of the box (1 if that is infinite).
        gamma: the share by which the norm shrinks and grows, in (0, 1).
        first_norm: the first norm of d, > 0, in input units; None is the width of the box.
        loss: as in `pgd`, with "ce" in the paper. None is "ce_sharp", or the margin of a given criterion.
        seed: of the noise where the gradient is zero.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.ddn(model, x, y, fa.L2(float("inf")), steps=50)
        >>> bool(out.success.all()), bool((out.distance < 2).all())
        (True, True)

    Source:
        Rony et al. 2019, "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks
        and Defenses" (arXiv 1811.09600), algorithm 1.
    """
    step_size = positive("step_size", step_size, width(threat))
    first_norm = positive("first_norm", first_norm, width(threat))
    check_share("gamma", gamma)

    def rule(search: core.Search[_Rows]) -> None:
        ascended = ("ce_sharp" if search.problem.criterion is core.WRONG else None) if loss is None else loss
        rows = search.rows
        points = search.x.clone()
        rows.most = farthest(search)
        rows.norm = rows.most.clamp_max(first_norm)
        for step in range(search.steps):
            look = search.gradient(points, ascended)
            rows.norm = torch.where(look.adversarial, rows.norm * (1 - gamma), rows.norm * (1 + gamma))
            rows.norm = torch.minimum(rows.norm, rows.most)
            points, way = _led(search, look.x_adv, look.gradient, step)
            advance(points, way, search.x, step_size * cosine(step, search.steps, LAST_STEP))
            away = points.sub_(search.x)
            length = norm(away, 2)
            share = torch.where(length > 0, rows.norm / length, 0.0)
            points = away.mul_(like(share, away)).add_(search.x).clamp_(*search.threat.box)
        search.finish(points)

    return core.run(
        model, x, y, threat, rule, rows=_Rows, steps=steps, one_way=loss is not None, minimum=True, seed=seed,
        **common,
    )  # fmt: skip


def _led(search: core.Search[_Rows], points: Tensor, gradient: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return the points and their gradients [n, ...]; where a gradient is zero, x and noise in its place."""
    flat = like(ops.largest(gradient), gradient) == 0
    if not waits(flat.device) and not bool(flat.any()):
        return points, gradient
    noise = rng.normal(gradient[0].numel(), rng.derive(search.seed, "ddn", search.restart), search.ids, step)
    noise = noise.to(gradient.dtype).view(gradient.shape)
    if search.problem.mask is not None:
        noise = noise * search.problem.mask
    return torch.where(flat, search.x, points), torch.where(flat, noise, gradient)
