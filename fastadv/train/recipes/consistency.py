"""Consistency: the same prediction for noisy copies of an image, for randomized smoothing."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv._checks import check_count, check_number
from fastadv.losses import log_mean
from fastadv.train.recipes._common import check_positive, gaussian, logits_at
from fastadv.train.recipes.base import check_images, seed_of


@dataclass(frozen=True)
class Consistency:
    """J(x + noise_i, y) + weight · KL(p || p_i) + entropy · H(p): mean over noises i; p is the mean of p_i.

    p_i is the softmax at x + noise_i. The loss makes the predictions alike and p confident, which is what a
    certificate needs. All copies pass in one batch; their noise, sigma · N(0, 1), is fresh in each epoch and
    keyed by (seed, id).

    Args:
        sigma: the standard deviation of the noise in each coordinate, in input units, > 0.
        weight: of the divergence, >= 0. The paper has 10 at sigma 0.25, and 5 at 0.5 and 1, on MNIST.
        entropy: weight of the entropy of p, >= 0.
        noises: copies of each image, >= 2. A batch of 128 images then costs as much as 256.

    Source:
        Jeong and Shin 2020 (arXiv 2006.04062), section 3, and their code.
    """

    sigma: float
    weight: float = 10.0
    entropy: float = 0.5
    noises: int = 2

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)
        check_number("weight", self.weight, 0)
        check_number("entropy", self.entropy, 0)
        check_count("noises", self.noises, 2)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        x = check_images(self, model, x)
        noise = gaussian(x, self.sigma, self.noises, ids, seed_of(seed, ids))
        logits = logits_at(model, (x + noise).flatten(0, 1), y)
        chances = logits.log_softmax(1).view(*noise.shape[:2], -1)
        mean = log_mean(chances)
        apart = (mean.exp() * (mean - chances)).sum(2).mean()
        unsure = -(mean.exp() * mean).sum(1).mean()
        return cross_entropy(logits, y.repeat(self.noises)) + self.weight * apart + self.entropy * unsure
