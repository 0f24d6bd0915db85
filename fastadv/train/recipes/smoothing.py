"""Training for randomized smoothing: under Gaussian noise, SmoothAdv, and Consistency."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_count, check_number
from fastadv.engine import Prepared
from fastadv.engine.capture import Rows
from fastadv.errors import InputError
from fastadv.labels import check_index
from fastadv.last_iterate import Walk
from fastadv.losses import Loss, log_mean
from fastadv.threat import L2
from fastadv.train.recipes import _common
from fastadv.train.recipes._common import check_objective, check_positive, drawn, logits_at, mean_loss
from fastadv.train.recipes._followers import follower
from fastadv.train.recipes.base import Crafted, checked, seed_of


def gaussian(x: Tensor, sigma: float, noises: int, ids: Tensor | None, seed: int) -> Tensor:
    """Draw `noises` times sigma · N(0, 1) for each sample, [noises, B, ...], keyed by (seed, id)."""
    kinds = [partial(rng.normal, draw=draw) for draw in range(noises)]
    return sigma * torch.stack([drawn(kind, x, ids, seed, "smoothing") for kind in kinds])


@dataclass(frozen=True)
class GaussianTraining:
    """The mean cross-entropy at x + sigma · N(0, 1), fresh in each epoch and keyed by (seed, id).

    Noisy images are not clamped to the box, as those are not that a smoothed classifier sees. A certificate
    is largest at about the sigma of training.

    Args:
        sigma: the standard deviation of the noise in each coordinate, in input units, > 0.
        loss: as in `Standard`.

    Source:
        Cohen, Rosenfeld, Kolter 2019 (arXiv 1902.02918), section 3.3.
    """

    sigma: float
    loss: Loss = "ce"

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)
        check_objective(0.0, self.loss)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        x, y = checked(self, model, x, y)
        (noise,) = gaussian(x, self.sigma, 1, ids, seed_of(seed, ids))
        return mean_loss(logits_at(model, x + noise, y), y, 0.0, self.loss)


@dataclass(frozen=True)
class SmoothAdv(Crafted):
    """The mean cross-entropy at x_adv + noise_i, where x_adv attacks the mean probability under these noises.

    x_adv is the last of `steps` projected steps of ascent from x on -log of the mean probability of y over
    the noisy copies, by the eval-mode network. The noises, sigma · N(0, 1), stay the same from step to step
    and in the loss; they are fresh in each epoch and keyed by (seed, id). The authors let the radius grow
    over ten epochs, from a tenth of it: `Optimization(ramp=9)`, or `--ramp 9`.

    In the authors' code a sample without a gradient takes a random direction, here it stays; and they clamp
    to the box and shorten, where a step here is projected on box and ball.

    Args:
        threat: L2 with one radius, in input units.
        sigma: the standard deviation of the noise in each coordinate, in input units, > 0.
        noises: noisy copies of each image, >= 1. A batch of 64 images and 4 noises costs as much as 256.
        steps: projected steps, >= 1.
        step_size: in input units; None is 2 · radius / steps.
        loss: what is trained, as in `Standard`.

    Source:
        Salman et al. 2019 (arXiv 1906.04584), section 2.2, and their code.
    """

    threat: L2
    sigma: float
    noises: int = 4
    steps: int = 10
    step_size: float | None = None
    loss: Loss = "ce"

    def __post_init__(self) -> None:
        _common.check_steps(self.threat, self.steps, self.step_size)
        if not isinstance(self.threat, L2):
            raise InputError(
                "threat: expected fa.L2, the norm in which Gaussian noise certifies, got "
                f"{type(self.threat).__name__}; write fa.L2(1.0), or --norm l2"
            )
        check_positive("sigma", self.sigma)
        check_count("noises", self.noises, 1)
        check_objective(0.0, self.loss)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        y = check_index("y", y, len(x), x.device)
        noise = gaussian(x, self.sigma, self.noises, ids, seed).transpose(0, 1)
        step_size = _common.step_length(self.threat, self.step_size, self.steps, 2.0)
        look = partial(partial, self._gradient)  # binds the model and its rows
        walk = Walk(self.threat, look, step_size, "smoothadv", self.noises)
        with _common.joined(model, noise.flatten(0, 1), y), torch.no_grad():
            rows = walk.rows(x.detach().clone(), x.detach(), y=y, noise=noise)
            return walk(follower(model), rows, self.steps)

    def _gradient(self, model: Prepared, rows: Rows, x_adv: Tensor) -> Tensor:
        """Return the gradient of -log of the mean probability at x_adv, times a positive number."""
        copies = (x_adv.unsqueeze(1) + rows["noise"]).flatten(0, 1)
        y = rows["y"].repeat_interleave(self.noises)
        return model.input_gradient(copies, y, self._unsure)[2].view_as(rows["noise"]).sum(1)

    def _unsure(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return for each noisy copy -log of the sum over its sample's copies of the probability of y."""
        # 1 - p of a confident sample rounds to 0 in float32
        chances = logits.double().log_softmax(1).gather(1, y[:, None]).view(-1, self.noises)
        return -chances.logsumexp(1).repeat_interleave(self.noises)

    def _loss(
        self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, ids: Tensor | None, seed: int
    ) -> Tensor:
        noise = gaussian(x, self.sigma, self.noises, ids, seed)
        logits = logits_at(model, (x_adv + noise).flatten(0, 1), y)
        return mean_loss(logits, y.repeat(self.noises), 0.0, self.loss)


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
        loss: J, as in `Standard`.

    Source:
        Jeong and Shin 2020 (arXiv 2006.04062), section 3, and their code.
    """

    sigma: float
    weight: float = 10.0
    entropy: float = 0.5
    noises: int = 2
    loss: Loss = "ce"

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)
        check_number("weight", self.weight, 0)
        check_number("entropy", self.entropy, 0)
        check_count("noises", self.noises, 2)
        check_objective(0.0, self.loss)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        x, y = checked(self, model, x, y)
        noise = gaussian(x, self.sigma, self.noises, ids, seed_of(seed, ids))
        logits = logits_at(model, (x + noise).flatten(0, 1), y)
        chances = logits.log_softmax(1).view(*noise.shape[:2], -1)
        mean = log_mean(chances)
        apart = (mean.exp() * (mean - chances)).sum(2).mean()
        unsure = -(mean.exp() * mean).sum(1).mean()
        natural = mean_loss(logits, y.repeat(self.noises), 0.0, self.loss)
        return natural + self.weight * apart + self.entropy * unsure
