"""SegPGD (Gu et al. 2022)."""

from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.core.record import Steps
from fastadv.attacks.criteria.decisions import Positions
from fastadv.attacks.methods.ascent import step_size_for
from fastadv.attacks.methods.dense import needs_share, share_of
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize


class _Rows(Steps):
    """With the weight [n] of positions that are wrong; the others have the rest."""

    weight: Tensor


@core.registered(random=True, paper="Gu et al. 2022", requires="a class at each position")
@core.tested(quick={"steps": 10})
@core.takes_common(door=partial(needs_share, "segpgd"))
def segpgd(
    model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *, steps: int = 40,
    step_size: StepSize | None = None, restarts: int = 1, random_start: bool = True, stop_early: bool = False,
    seed: int = 0, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Maximize the cross-entropy at positions by `pgd`, of those that are not wrong yet at first.

    At step t of T, from 0, the cross-entropy of a position has the weight t / 2T in the gradient where the
    decision is wrong, and 1 - t / 2T elsewhere, over the square of 1 plus itself. The point with the most
    wrong positions is kept, not the last.

    Args:
        y: int [B, ...], a class for each position.
        threat: as in `pgd`.
        steps: moves in each restart; 0 returns the start.
        step_size: as in `pgd`.
        stop_early: whether a sample stops where the share of `criterion` is wrong; False makes as many
            positions wrong as it can.
        criterion: `Share(least)`, which must be given.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> import torch
        >>> model = torch.nn.Conv2d(1, 3, 3, padding=1)
        >>> y = model(x).argmax(1)  # [8, 8, 8]
        >>> out = fa.attacks.segpgd(model, x, y, fa.Linf(0.5), criterion=fa.attacks.Share(0.5))
        >>> wrong = (model(out.x_adv).argmax(1) != y).flatten(1).double().mean(1)
        >>> bool((wrong >= 0.5)[out.success].all())
        True

    Source:
        Gu et al. 2022, "SegPGD: An Effective and Efficient Adversarial Attack for Evaluating and Boosting
        Segmentation Robustness" (arXiv 2207.12391), equations 4 to 6.
    """
    criterion = share_of(model)
    size = step_size_for(threat, x, steps, 2.5, step_size)

    def loss(outputs: Tensor, y: Tensor, targets: Tensor | None, weight: Tensor) -> Tensor:
        def weighted(at: Positions) -> Tensor:
            wrong, weights = criterion.met_at(at, targets is not None), weight[:, None]
            near = 1 / (1 + at.cross_entropy().detach()).square()  # else far positions outweigh those at hand
            return at.weighted(torch.where(wrong, weights, 1 - weights) * near)

        return criterion.scaled(outputs, y, targets, weighted)

    def step(search: core.Search[_Rows]) -> None:
        rows = search.rows
        look = search.gradient(rows.points, partial(loss, weight=rows.weight))
        rows.points = search.threat.step_(look.x_adv, look.gradient, search.x, rows.step_size)

    def schedule(number: int, search: core.Search[_Rows]) -> None:
        search.rows.weight = search.full(number / (2 * steps))

    def rule(search: core.Search[_Rows]) -> None:
        search.rows.step_size = search.per_sample(size)
        search.rows.points = search.start(random_start)
        core.repeat(search, step, steps, "segpgd", before=schedule)
        search.finish(search.rows.points)

    return core.run(
        model, x, y, threat, rule, rows=_Rows, loss=criterion.loss("ce"), restarts=restarts,
        stop_early=stop_early, seed=seed, from_x=not random_start, **common,
    )  # fmt: skip
