"""Random noise on the images: the control of adversarial training."""

from dataclasses import dataclass

from torch import Tensor, nn

import fastadv as fa
from papers.goodfellow2014.recipes.losses import check_share, drawn, mixture


@dataclass(frozen=True)
class InputNoise(fa.train.Crafted):
    """The mean cross-entropy on noisy images, fresh in each epoch and keyed by (seed, id) (section 7).

    `kind` "sign" adds +radius or -radius to each pixel, "uniform" a number drawn uniformly between them; the
    noisy image is clamped to the box. This costs as little as standard training, and gains little
    robustness: it shows what the direction of FGSM is worth. `weight` is that of the clean images.
    """

    threat: fa.Linf
    kind: str = "sign"
    weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_share("weight", self.weight)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        noise = 2 * drawn(fa.rng.uniform, x, ids, seed, "input noise") - 1
        if self.kind == "sign":
            noise = (noise >= 0).to(x) * 2 - 1
        return (x + self.threat.radius * noise).clamp(*self.threat.box)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return mixture(model, x, x_adv, y, self.weight, self.label_smoothing)
