"""The mathematics of section 4: two Gaussian classes N(y mu, Sigma), y = 1 or -1, and an L2 adversary.

Twice the negative log-likelihood is v' Sigma^-1 v + log det Sigma + d log 2 pi with v = y x - mu. An
adversary with the penalty C ||delta||^2 on it moves v by delta = (C Sigma - I)^-1 v, if C exceeds 1 / sigma
for the least eigenvalue sigma of Sigma. The paper's theorems are for this adversary: its squared length is
bounded on average. In a ball, where each sample moves by at most the radius, there is no closed form; the
problem, convex in Sigma^-1 and Sigma^-1 mu, is solved here. All tensors are float64.
"""

import math

import torch
from torch import Tensor

from fastadv import rng
from fastadv.errors import InputError

HALVINGS = 200
ROUNDS, DONE, SETTLED = 1000, 1e-10, 1e-4  # of the fit in a ball


def whitened(covariance: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return `count` draws [count, d] whose mean is exactly 0 and whose covariance exactly `covariance`.

    What holds for the distribution then holds for the sample, without a sampling error.
    """
    size = len(covariance)
    drawn = rng.normal(size, rng.derive(seed, "gaussian"), torch.arange(count)).double()
    drawn -= drawn.mean(0)
    factor = torch.linalg.cholesky(drawn.T @ drawn / count)
    white = torch.linalg.solve_triangular(factor, drawn.T, upper=False).T
    shaped: Tensor = white @ torch.linalg.cholesky(covariance).T
    return shaped


def vulnerability(covariance: Tensor, penalty: float) -> Tensor:
    """Return tr[(I + (C Sigma - I)^-1)^2] - d: what the adversary adds to twice the loss at the truth.

    Theorem 1. InputError unless the penalty exceeds one over the least eigenvalue.
    """
    values = torch.linalg.eigvalsh(covariance)
    if not penalty * float(values.min()) > 1:
        raise InputError(
            f"penalty: expected more than {1 / float(values.min()):.4g}, one over the least eigenvalue, got "
            f"{penalty:g}; below it the adversary gains without bound"
        )
    added: Tensor = (1 + 1 / (penalty * values - 1)).square().sum() - len(values)
    return added


def robust_covariance(covariance: Tensor, penalty: float) -> Tensor:
    """Sigma / 2 + I / C + sqrt(Sigma / C + Sigma^2 / 4): the covariance learned under that penalty.

    Theorem 2; the mean learned is the true one. Without an adversary the penalty is infinite.
    """
    if penalty == math.inf:
        return covariance
    values, vectors = torch.linalg.eigh(covariance)
    learned: Tensor = vectors @ torch.diag(_robust(values, penalty)) @ vectors.T
    return learned


def penalty_for(covariance: Tensor, radius: float) -> float:
    """Return the penalty under which E ||delta||^2 = radius^2 at the covariance learned; inf for radius 0.

    At an eigenvalue s learned, the adversary spends 1 / (C^2 s).
    """
    if radius == 0:
        return math.inf
    values = torch.linalg.eigvalsh(covariance)
    low, high = -80.0, 80.0  # of log C
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        penalty = math.exp(middle)
        spent = float((1 / (penalty**2 * _robust(values, penalty))).sum())
        low, high = (middle, high) if spent > radius**2 else (low, middle)
    return math.exp((low + high) / 2)


def alignment(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the cosine of the angle between the classifier's input gradient, Sigma^-1 mu, and mu itself."""
    gradient = torch.linalg.solve(covariance, mean)
    return torch.nn.functional.cosine_similarity(gradient, mean, dim=0)


def least_alignment(covariance: Tensor) -> Tensor:
    """Return the least `alignment` over all means, 2 sqrt(s t) / (s + t) for the extreme eigenvalues s and t.

    That is Kantorovich's inequality; the mean that attains it is sqrt(s) u + sqrt(t) w, with their
    eigenvectors. Theorem 3 says that it grows when the covariance is learned robustly.
    """
    values = torch.linalg.eigvalsh(covariance)
    cosine: Tensor = 2 * (values[0] * values[-1]).sqrt() / (values[0] + values[-1])
    return cosine


def _robust(values: Tensor, penalty: float) -> Tensor:
    return values / 2 + 1 / penalty + (values / penalty + values.square() / 4).sqrt()


def worst(v: Tensor, covariance: Tensor, radius: float) -> Tensor:
    """Return delta [n, d] with ||delta|| <= radius that maximizes (v + delta)' Sigma^-1 (v + delta), exactly.

    It is (k I - Sigma^-1)^-1 Sigma^-1 v, with k above the largest eigenvalue of Sigma^-1 such that its length
    is the radius (a trust-region problem). v is float64 [n, d], and no row of it is 0 in the direction of the
    least eigenvalue of Sigma, where two answers would be equally good.
    """
    if radius == 0:
        return torch.zeros_like(v)
    values, vectors = torch.linalg.eigh(covariance)
    pull = (v @ vectors) / values  # Sigma^-1 v
    gap = 1 / values[0] - 1 / values  # k = 1 / values[0] + more
    low = pull[:, :1].abs() / radius
    high = pull.norm(dim=1, keepdim=True) / radius
    for _ in range(60):
        more = (low + high) / 2
        longer = (pull / (more + gap)).norm(dim=1, keepdim=True) > radius
        low, high = torch.where(longer, more, low), torch.where(longer, high, more)
    away = pull / (high + gap)
    delta: Tensor = (away * (radius / away.norm(dim=1, keepdim=True))) @ vectors.T
    return delta


def fit_in_ball(signed: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Return (mean [d], covariance [d, d]) of robust maximum likelihood on the samples y x [n, d], in a ball.

    At the solution the gradient of the robust loss is that of the plain loss at the worst points. So mean and
    covariance are those of their own worst points, which is iterated. Steps grow shorter, since at the
    solution some samples may have two worst points. InputError where that does not settle.
    """
    mean = signed.mean(0)
    covariance = _spread(signed - mean)
    for round in range(ROUNDS):
        share = 1 / (2 + round / 20)
        points = signed + worst(signed - mean, covariance, radius)
        there = points.mean(0)
        wanted = _spread(points - mean)
        moved = max(float((there - mean).norm()), float((wanted - covariance).norm()))
        mean, covariance = mean.lerp(there, share), covariance.lerp(wanted, share)
        if moved <= DONE * float(covariance.norm()):
            break
    if share * moved <= SETTLED * float(covariance.norm()):
        return mean, covariance
    raise InputError(f"radius: the robust fit at {radius:g} does not settle; choose more samples")


def _spread(centered: Tensor) -> Tensor:
    return centered.T @ centered / len(centered)
