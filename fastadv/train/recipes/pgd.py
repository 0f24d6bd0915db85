"""Madry's adversarial training."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.train.recipes._common import ascent, check_objective, check_steps, mixture
from fastadv.train.recipes.base import Crafted


@dataclass(frozen=True)
class PGDTraining(Crafted):
    """Madry's objective: the mean cross-entropy after `steps` projected steps of ascent on `loss`.

    step_size is in input units, by default 2.5 · radius / steps (rounded up to whole coordinates for L0). A
    random start is drawn uniformly from the ball, keyed by (seed, id). weight mixes in the loss on clean
    images, as in FGSMTraining. A network with BatchNorm needs some of it where the radius is large (MNIST at
    0.3): adversarial images then have other statistics than clean ones, which it would misclassify.

    Raises InputError for steps < 1, a step size that is not positive and finite or too short to move
    anything, a weight outside [0, 1], a radius per sample, or an infinite radius with a random start or
    without a step size.
    Source: Madry et al. 2018 (arXiv 1706.06083), equation 2.1.
    """

    threat: Threat
    steps: int
    step_size: float | None = None
    random_start: bool = True
    loss: str | Callable[..., Tensor] = "ce"
    weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_steps(self.threat, self.steps, self.step_size)
        check_objective(self.label_smoothing, weight=self.weight)
        if self.random_start and not self.threat.finite:
            raise InputError(
                "radius: expected a finite one for a random start, got inf; set random_start=False"
            )

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        start = self.threat.random_start(x, seed=seed, ids=ids) if self.random_start else None
        return ascent(model, x, y, self.threat, self.steps, self.step_size, loss=self.loss, start=start)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return mixture(model, x, x_adv, y, self.weight, self.label_smoothing)
