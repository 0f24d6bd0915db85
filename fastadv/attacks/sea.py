"""The Segmentation Ensemble Attack (Croce et al. 2024)."""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.core.judge import loss_of
from fastadv.attacks.core.look import ScoredLook
from fastadv.attacks.methods.auto_pgd import Ascents, Dense, project, stages
from fastadv.attacks.methods.dense import needs_share, share_of
from fastadv.errors import InputError
from fastadv.ops.keep_best import keep_best_
from fastadv.threat import Threat

LARGER = (2.0, 1.5)  # radii to begin with, over the radius of the threat
RHO = 0.75


class _Rows(Ascents):
    """With the point [n, ...] of the stage with the most wrong positions, and its strength [n]."""

    strongest: Tensor
    strength: Tensor


class _Stage(Dense):
    """Follows a loss, adapts its steps by that of the plan, and remembers the strongest point."""

    search: core.Search[_Rows]

    def begin(self, points: Tensor) -> None:
        rows = self.search.rows
        rows.strongest, rows.strength = points.clone(), self.search.full(-torch.inf)
        super().begin(points)

    def value(self, look: ScoredLook) -> Tensor:
        search = self.search
        return loss_of(look.logits, search.y, search.plan.loss, search.aims)

    def _keep_top(self, look: ScoredLook) -> None:
        super()._keep_top(look)
        rows, none = self.search.rows, torch.zeros_like(self.search.best.success)
        strength = self.search.strength(look).to(rows.strength.dtype)
        keep_best_(rows.strongest, rows.strength, none, look.x_adv, strength, none)


@core.registered(paper="Croce et al. 2024", requires="a class at each position")
@core.tested(quick={"steps": 10})
@core.takes_common(norms=("linf", "l2"), finite=True, door=partial(needs_share, "sea"), steps=0)
def sea(
    model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *, steps: int = 300,
    losses: Sequence[str] = ("bounded_margin", "balanced_ce", "masked_ce", "js"), restarts: int = 1,
    stop_early: bool = False, seed: int = 0, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Make as many positions wrong as it can, by the worst of a run of Auto-PGD for each of several losses.

    Of the steps of a run 3/10 go to the ball of twice the radius, 3/10 to that of 1.5 times the radius, the
    rest to the threat's own. Each stage begins at the point of the last with the most wrong positions,
    projected on its ball; the first one at x. The first step of a stage is twice its radius, and steps adapt
    as in `apgd`, by the plain cross-entropy.

    Args:
        threat: Linf or L2; the radius is finite, a number or [B].
        y: int [B, ...], a class for each position.
        steps: moves in each run; 0 returns the start. 300 as in the paper.
        losses: names of the criterion's losses, a run for each; ("js",) is one run, and the paper's are
            those after the first. For the worst mean IoU over images, have a result of each run.
        restarts: how often all runs are made; those after the first begin at random points.
        stop_early: whether a sample stops where the share of `criterion` is wrong; False makes as many
            positions wrong as it can.
        criterion: `Share(least)`, which must be given.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> import torch
        >>> model = torch.nn.Conv2d(1, 3, 3, padding=1)
        >>> y = model(x).argmax(1)  # [8, 8, 8]
        >>> share = fa.attacks.Share(0.5)
        >>> out = fa.attacks.sea(model, x, y, fa.Linf(0.5), steps=10, criterion=share)
        >>> wrong = (model(out.x_adv).argmax(1) != y).flatten(1).double().mean(1)
        >>> bool((wrong >= 0.5)[out.success].all())
        True

    Source:
        Croce et al. 2024, "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation
        Models" (arXiv 2306.12941), section 3. The paper treats Linf.
    """
    criterion = share_of(model)
    if isinstance(losses, str) or not losses:
        raise InputError(f'losses: expected names of losses, such as ("js",), got {losses!r}')
    followed = [criterion.loss(name) for name in losses]

    def rule(search: core.Search[_Rows]) -> None:
        for loss in followed:
            search.forget()
            points = search.start()
            for factor, moves in stages(steps, LARGER):
                _Stage(search, moves, RHO, factor, loss).run(project(search, points, factor))
                points = search.rows.strongest

    return core.run(
        model, x, y, threat, rule, rows=_Rows, loss=criterion.loss("ce"), restarts=restarts,
        stop_early=stop_early, seed=seed, from_x=True, **common,
    )  # fmt: skip
