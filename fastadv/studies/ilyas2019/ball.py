"""Maximum likelihood under an adversary in a ball: each sample moves by at most the radius.

The paper's theorems hold for an adversary with a penalty, which is one whose squared length is bounded on
average. In a ball there is no closed form; the problem, convex in Sigma^-1 and Sigma^-1 mu, is solved here.
"""

import torch
from torch import Tensor

from fastadv.errors import InputError

HALVINGS = 60
ROUNDS, DONE, SETTLED = 1000, 1e-10, 1e-4


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
    for _ in range(HALVINGS):
        more = (low + high) / 2
        longer = (pull / (more + gap)).norm(dim=1, keepdim=True) > radius
        low, high = torch.where(longer, more, low), torch.where(longer, high, more)
    away = pull / (high + gap)
    delta: Tensor = (away * (radius / away.norm(dim=1, keepdim=True))) @ vectors.T
    return delta


def fit(signed: Tensor, radius: float) -> tuple[Tensor, Tensor]:
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
