"""Section 4: the three theorems on two Gaussian classes, checked on samples of exact mean and covariance."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.runs.work import Keeper
from papers.ilyas2019 import figures, gaussian
from papers.ilyas2019.gaussian import Check, Learned, apart
from papers.study import Watch, publish, unwatched

MARGIN = 1.05  # of the box around samples and their balls


def unlikelihood(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    return -logits.gather(1, y[:, None]).squeeze(1)


@dataclass(frozen=True)
class RobustLikelihood(fa.train.PGDTraining):
    """Maximum likelihood at the points that PGD finds for it; the logits are log-likelihoods."""

    loss: str | Callable[..., Tensor] = field(default=unlikelihood)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return unlikelihood(model(x_adv), y).mean()


class GaussianClasses(nn.Module):
    """Log-likelihoods [B, 2] of images [B, 1, 1, d], (x - 1/2) * scale, in N(-mu, Sigma) and N(mu, Sigma)."""

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
    """Return robust maximum likelihood in an L2 ball, by adversarial training from a round covariance."""
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


NEAR, STRAIGHT = 0.03, 0.01  # how far trained parameters and cosines may be from the solution
SIZE = 6  # dimensions in which the closed forms are checked as well


@dataclass(frozen=True)
class Settings:
    """The true classes, in two dimensions so that they can be drawn, and the radii of the adversary."""

    mean: tuple[float, float] = (4.0, 2.0)
    deviations: tuple[float, float] = (5.0, 1.0)  # along the axes of the covariance
    angle: float = -25.0  # of the first axis, in degrees
    radii: tuple[float, ...] = (1.0, 5.0, 10.0)
    samples: int = 1000
    epochs: int = 150
    steps: int = 25
    seed: int = 0

    def truth(self) -> tuple[Tensor, Tensor]:
        turn = math.radians(self.angle)
        axes = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]).double()
        variances = torch.tensor(self.deviations).double().square()
        return torch.tensor(self.mean).double(), axes @ torch.diag(variances) @ axes.T


def run(settings: Settings, folder: Path, watch: Watch = unwatched) -> dict[str, Any]:
    """Check the theorems, draw both figures in `folder`, write results.json there, and return the results."""
    mean, covariance = settings.truth()
    samples, seed, where = settings.samples, settings.seed, f", in {SIZE} dimensions"
    # in no special direction
    drawn = fa.rng.normal(SIZE, fa.rng.derive(seed, "covariance"), torch.arange(SIZE)).double()
    large = drawn @ drawn.T + 0.2 * torch.eye(SIZE, dtype=torch.float64)
    with Keeper(folder) as keeper:
        watch("theorems", 0, 1)
        done = [
            *gaussian.first(covariance, samples, seed),
            *gaussian.first(large, samples, seed, where),
            *gaussian.second(mean, covariance, settings.radii, samples, seed),
            *gaussian.third(covariance, settings.radii, seed),
            *gaussian.third(large, (0.5, 1.0, 2.0), seed, where),
        ]
        learned = [learn(settings, radius, watch) for radius in (0.0, *settings.radii)]
        done += list(of_training(learned))
        paths = {"learned classes": folder / "ellipses.png", "theorems 1 and 3": folder / "theorems.png"}
        figures.ellipses(mean, covariance, learned, paths["learned classes"])
        figures.theorems(covariance, max(settings.radii), paths["theorems 1 and 3"])
        checks = [check.as_json() for check in done]
        figured = {what: str(path) for what, path in paths.items()}
        told = [each.as_json() for each in learned]
        return publish(
            keeper, "study ilyas theory", asdict(settings), checks=checks, learned=told, figures=figured
        )


def learn(settings: Settings, radius: float, watch: Watch) -> Learned:
    """Return robust maximum likelihood at a radius, in every way."""
    mean, covariance = settings.truth()
    signed = mean + gaussian.whitened(covariance, settings.samples, settings.seed)
    penalty = gaussian.penalty_for(covariance, radius)
    model = train(signed, radius, settings.epochs, settings.steps, partial(watch, f"training at {radius:g}"))
    # of the difference of the two log-likelihoods; it is the same at every x
    images, direction = as_images(signed, radius)[0], torch.tensor([[[-1.0, 1.0]]])
    gradient = fa.freeze(model).jacobian(images.x[:1], direction)[1].double().flatten()
    theorem = gaussian.robust_covariance(covariance, penalty)
    return Learned(
        radius, penalty, theorem, *gaussian.fit_in_ball(signed, radius), *model.learned(), gradient
    )


def of_training(learned: list[Learned]) -> Iterator[Check]:
    """Yield what adversarial training learned, against the solution in the ball and theorem 3."""
    for each in learned:
        at = f"training at {each.radius:g}"
        yield Check(2, f"{at}: mean", apart(each.trained_mean, each.ball_mean), NEAR)
        yield Check(2, f"{at}: covariance", apart(each.trained, each.ball), NEAR)
    mean = learned[0].ball_mean
    cosines = [float(torch.nn.functional.cosine_similarity(each.gradient, mean, dim=0)) for each in learned]
    for each, cosine in zip(learned, cosines, strict=True):
        expected = float(gaussian.alignment(each.ball_mean, each.ball))
        yield Check(3, f"training at {each.radius:g}: its gradient", abs(cosine - expected), STRAIGHT)
    yield Check(3, "its gradient turns to the mean with every radius", gaussian.fallen(cosines), 0)


def table(result: dict[str, Any]) -> list[list[str]]:
    lines = [
        [f"theorem {c['theorem']}", c["claim"], f"{c['deviation']:.2g}", f"{c['tolerance']:g}",
         "holds" if c["holds"] else "FAILS"]
        for c in result["measured"]["checks"]
    ]  # fmt: skip
    return [["", "claim", "deviation", "tolerance", ""], *lines]


def notes(result: dict[str, Any]) -> list[str]:
    robust = result["measured"]["learned"][1:]
    gaps = ", ".join(f"{each['apart']:.1%} at {each['radius']:g}" for each in robust)
    return [
        "deviations are relative; of cosines absolute; of orders the number of exceptions",
        "theorem 2 is for an adversary whose mean squared length is bounded; in a ball, as in training, the "
        f"covariance differs from its by {gaps}",
    ]
