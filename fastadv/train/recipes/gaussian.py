"""Training under Gaussian noise, for randomized smoothing."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.train.recipes._common import check_positive, gaussian, logits_at
from fastadv.train.recipes.base import check_images, seed_of


@dataclass(frozen=True)
class GaussianTraining:
    """The mean cross-entropy at x + sigma · N(0, 1), fresh in each epoch and keyed by (seed, id).

    Noisy images are not clamped to the box, as those are not that a smoothed classifier sees. A certificate
    is largest at about the sigma of training.

    Args:
        sigma: the standard deviation of the noise in each coordinate, in input units, > 0.

    Source:
        Cohen, Rosenfeld, Kolter 2019 (arXiv 1902.02918), section 3.3.
    """

    sigma: float

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        x = check_images(self, model, x)
        (noise,) = gaussian(x, self.sigma, 1, ids, seed_of(seed, ids))
        return cross_entropy(logits_at(model, x + noise, y), y)
