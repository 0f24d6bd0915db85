"""Random noise on the images: the control of adversarial training."""

from dataclasses import dataclass

from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_choice
from fastadv.errors import InputError
from fastadv.threat import Linf
from fastadv.train.recipes._common import check_finite, check_objective, drawn, mixture
from fastadv.train.recipes.base import Crafted

KINDS = ("sign", "uniform")


@dataclass(frozen=True)
class InputNoise(Crafted):
    """The mean cross-entropy on noisy images, fresh in each epoch and keyed by (seed, id).

    The noisy image is clamped to the box. This costs as little as standard training, and gains little
    robustness: it shows what the direction of FGSM is worth.

    Args:
        threat: Linf with one finite radius, in input units.
        kind: "sign" adds +radius or -radius to each pixel, "uniform" a number drawn uniformly between them.
        weight: of the clean images, in [0, 1], as in `FGSMTraining`.
        label_smoothing: the share of each label that is spread over all classes, in [0, 1).

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 7, the control experiments.
    """

    threat: Linf
    kind: str = "sign"
    weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_finite(self.threat, "noise in the ball")
        if not isinstance(self.threat, Linf):
            raise InputError(
                f"threat: expected fa.Linf for noise on each pixel, got {type(self.threat).__name__}"
            )
        check_objective(self.label_smoothing, weight=self.weight)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        noise = 2 * drawn(rng.uniform, x, ids, seed, "input noise") - 1
        if self.kind == "sign":
            noise = (noise >= 0).to(x) * 2 - 1
        return (x + self.threat.radius * noise).clamp(*self.threat.box)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return mixture(model, x, x_adv, y, self.weight, self.label_smoothing)
