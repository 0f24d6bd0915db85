"""The same model learned as the library trains any other: by steps of descent on points that PGD finds."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet

MARGIN = 1.05  # of the box around samples and their balls


def unlikelihood(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return [B], minus the log-likelihood of each sample in its own class, as the logits have it."""
    return -logits.gather(1, y[:, None]).squeeze(1)


@dataclass(frozen=True)
class RobustLikelihood(fa.train.PGDTraining):
    """Maximum likelihood at the points that PGD finds for it; the logits are log-likelihoods."""

    loss: str | Callable[..., Tensor] = field(default=unlikelihood)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return unlikelihood(model(x_adv), y).mean()


class GaussianClasses(nn.Module):
    """The log-likelihoods [B, 2] of x in N(-mu, Sigma) and N(mu, Sigma), without their constant.

    x are images [B, 1, 1, d] in [0, 1], which stand for (x - 1/2) * scale.
    """

    def __init__(self, size: int, scale: float, spread: float) -> None:
        super().__init__()
        self.scale, self.spread = scale / spread, spread
        # in units of the spread: mu, and L with the logarithms of its diagonal, where Sigma^-1 = L L'
        self.center = nn.Parameter(torch.zeros(size))
        self.diagonal = nn.Parameter(torch.zeros(size))
        self.lower = nn.Parameter(torch.zeros(size, size))

    def forward(self, x: Tensor) -> Tensor:
        points = (x.flatten(1) - 0.5) * self.scale
        classes = [self._log_likelihood(points + side * self.center) for side in (1, -1)]
        return torch.stack(classes, 1)

    def _log_likelihood(self, away: Tensor) -> Tensor:
        return self.diagonal.sum() - (away @ self._factor()).square().sum(1) / 2

    def _factor(self) -> Tensor:
        return self.lower.tril(-1) + torch.diag(self.diagonal.exp())

    def learned(self) -> tuple[Tensor, Tensor]:
        """Return (mu [d], Sigma [d, d]), float64."""
        factor = self._factor().detach().double()
        covariance = self.spread**2 * torch.linalg.inv(factor @ factor.T)
        return self.spread * self.center.detach().double(), covariance


def as_images(signed: Tensor, radius: float) -> tuple[ImageSet, float]:
    """Return (the samples y x [n, d] as images, half in either class, the scale); the box cuts no ball."""
    y = torch.arange(len(signed)) % 2
    scale = 2 * MARGIN * (float(signed.norm(dim=1).max()) + radius)
    x = 0.5 + signed * (2 * y - 1)[:, None] / scale
    return ImageSet(x.float()[:, None, None], y, 2, "two Gaussian classes"), scale


def train(
    signed: Tensor, radius: float, epochs: int, steps: int, progress: Callable[[int, int], None] | None = None
) -> GaussianClasses:
    """Return robust maximum likelihood in an L2 ball by adversarial training from mean 0, round covariance.

    Every epoch is one batch. With radius 0 it is maximum likelihood.
    """
    images, scale = as_images(signed, radius)
    model = GaussianClasses(signed.shape[1], scale, float(signed.std()))
    ball = fa.L2(radius / scale)
    # the loss is convex in x: long steps climb it fastest, as in the power iteration
    recipe = RobustLikelihood(ball, steps=steps, step_size=10 * (radius or 1) / scale, random_start=False)
    fa.train.fit(
        model, images, recipe, epochs=epochs, optimizer="adam", learning_rate=0.1, batch_size=len(images),
        optimization=fa.train.Optimization(weight_decay=0.0, schedule="cosine"), progress=progress,
    )  # fmt: skip
    return model.eval()
