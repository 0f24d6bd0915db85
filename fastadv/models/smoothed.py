"""A smoothed model for attacks: the mean probabilities of a model under Gaussian noise."""

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_count, check_number, check_seed
from fastadv.errors import InputError
from fastadv.losses import log_mean


class Smoothed(nn.Module):
    """A model under Gaussian noise: the log of its mean probabilities over `noises` noisy copies of x.

    Called with x [B, ...], it returns logits [B, K], whose cross-entropy is -log of the mean probability, so
    every attack on it attacks the smoothed model. The noises are the same in each call and for each sample,
    so the logits are a function of x, and a pass costs `noises` passes of the model inside. An attack may
    come to fit these noises: ask whether its examples also fool a `Smoothed` with another seed. It certifies
    nothing: `fastadv.certify` does, by votes over fresh noise.

    Args:
        model: x [B, ...] to logits [B, K].
        sigma: the standard deviation of the noise in each coordinate, in input units, > 0. Noisy copies are
            not clamped to the box.
        noises: copies of each sample, >= 1.
        seed: of the noises.

    Raises:
        InputError: sigma or another number is out of range.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=8)
        >>> model = fa.models.create("small_cnn", shape=digits.shape, classes=10, width=8)
        >>> smoothed = fa.models.Smoothed(model, sigma=0.25)
        >>> tuple(fa.attacks.pgd(smoothed, digits.x, digits.y, fa.L2(0.5), steps=2).x_adv.shape)
        (8, 1, 8, 8)

    Source:
        Salman et al. 2019 (arXiv 1906.04584), section 2.2, the attack on the smoothed classifier.
    """

    def __init__(self, model: nn.Module, sigma: float, noises: int = 16, seed: int = 0) -> None:
        super().__init__()
        if (number := check_number("sigma", sigma)) <= 0:
            raise InputError(f"sigma: expected a number > 0, got {sigma!r}")
        self.model, self.sigma = model, number
        self.noises, self.seed = check_count("noises", noises, 1), check_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        ids = torch.arange(self.noises, device=x.device)
        noise = rng.normal(x.shape[1:].numel(), rng.derive(self.seed, "smoothed"), ids).to(x)
        made = [self.model(x + self.sigma * each.view(x.shape[1:])) for each in noise]
        return log_mean(torch.stack(made))
