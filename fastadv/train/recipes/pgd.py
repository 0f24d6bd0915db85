"""Madry's adversarial training."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastadv._checks import check_choice
from fastadv.attacks.core.criterion import Criterion
from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.train.recipes._common import ascent, check_criterion, check_objective, check_steps, mixture
from fastadv.train.recipes.base import Crafted

STATISTICS = ("adversarial", "both")


@dataclass(frozen=True)
class PGDTraining(Crafted):
    """Madry's objective: the mean cross-entropy after `steps` projected steps of ascent on `loss`.

    A random start is drawn from the ball, keyed by (seed, id). A network with BatchNorm needs clean images
    where the radius is large (MNIST at 0.3): adversarial ones then have other statistics, and it would
    misclassify clean ones. Either give `weight` a value, or set `statistics` to "both".

    Args:
        threat: Linf, L2, L1 or L0 with one radius, in input units.
        steps: projected steps, >= 1.
        step_size: in input units; None is 2.5 · radius / steps (rounded up to whole coordinates for L0).
        random_start: whether to start at a random point of the ball, rather than at x.
        loss: what the attack ascends: a name of `fastadv.losses.LOSSES`, or a function (logits, y, targets)
            -> [B].
        weight: of the loss on clean images, in [0, 1], as in `FGSMTraining`.
        label_smoothing: the share of each label that is spread over all classes, in [0, 1).
        statistics: which images the running statistics of BatchNorm see: "adversarial", or "both": after the
            pass of x_adv, one of x without a gradient. Code that logs clean accuracy while it trains does the
            latter without saying so.
        criterion: of a model of other outputs than classes: `fa.attacks.Signs()`, `Share(least)` or
            `Beyond(distance)`, whose `objective` takes the place of the cross-entropy; None is classes.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", limit=64)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> recipe = fa.train.PGDTraining(fa.L2(0.5), steps=3)
        >>> loss = recipe(model, digits.x, digits.y, seed=0)  # as in a loop of your own
        >>> loss.requires_grad, loss.ndim
        (True, 0)

    Source:
        Madry et al. 2018 (arXiv 1706.06083), equation 2.1.
    """

    threat: Threat
    steps: int = 7
    step_size: float | None = None
    random_start: bool = True
    loss: str | Callable[..., Tensor] = "ce"
    weight: float = 0.0
    label_smoothing: float = 0.0
    statistics: str = "adversarial"
    criterion: Criterion | None = None

    def __post_init__(self) -> None:
        check_steps(self.threat, self.steps, self.step_size)
        check_objective(self.label_smoothing, weight=self.weight)
        check_criterion(self.criterion, self.label_smoothing)
        check_choice("statistics", self.statistics, STATISTICS)
        if self.statistics == "both" and self.weight > 0:
            raise InputError(
                "statistics: expected 'adversarial' where the loss sees clean images "
                f"(weight {self.weight:g}), got 'both'; leave it out"
            )
        if self.random_start and not self.threat.finite:
            raise InputError(
                "radius: expected a finite one for a random start, got inf; set random_start=False"
            )

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        start = self.threat.random_start(x, seed=seed, ids=ids) if self.random_start else None
        return ascent(
            model, x, y, self.threat, self.steps, self.step_size, loss=self.loss, start=start,
            criterion=self.criterion,
        )  # fmt: skip

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        loss = mixture(model, x, x_adv, y, self.weight, self.label_smoothing, criterion=self.criterion)
        if self.statistics == "both":  # BatchNorm sees clean images, too
            with torch.no_grad():
                model(x)
        return loss
