"""The mathematics of section 4: two Gaussian classes N(y mu, Sigma), y = 1 or -1, and an L2 adversary.

Twice the negative log-likelihood is v' Sigma^-1 v + log det Sigma + d log 2 pi with v = y x - mu. The paper's
adversary, with the penalty C ||delta||^2 on it, moves v by (C Sigma - I)^-1 v. In a ball, where each sample
moves by at most the radius, there is no closed form; the problem is convex. All tensors are float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from fastadv import rng
from fastadv.errors import InputError
from papers.text import finite

HALVINGS = 200
ROUNDS, DONE, SETTLED = 1000, 1e-10, 1e-4  # of the fit in a ball


def whitened(covariance: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return `count` draws [count, d] whose mean is exactly 0 and whose covariance exactly `covariance`."""
    size = len(covariance)
    drawn = rng.normal(size, rng.derive(seed, "gaussian"), torch.arange(count)).double()
    drawn -= drawn.mean(0)
    factor = torch.linalg.cholesky(drawn.T @ drawn / count)
    white = torch.linalg.solve_triangular(factor, drawn.T, upper=False).T
    shaped: Tensor = white @ torch.linalg.cholesky(covariance).T
    return shaped


def vulnerability(covariance: Tensor, penalty: float) -> Tensor:
    """Return tr[(I + (C Sigma - I)^-1)^2] - d, what the adversary adds to twice the loss (theorem 1)."""
    values = torch.linalg.eigvalsh(covariance)
    added: Tensor = (1 + 1 / (penalty * values - 1)).square().sum() - len(values)
    return added


def robust_covariance(covariance: Tensor, penalty: float) -> Tensor:
    """Return Sigma / 2 + I / C + sqrt(Sigma / C + Sigma^2 / 4), learned under that penalty (theorem 2)."""
    if penalty == math.inf:
        return covariance
    values, vectors = torch.linalg.eigh(covariance)
    learned: Tensor = vectors @ torch.diag(_robust(values, penalty)) @ vectors.T
    return learned


def penalty_for(covariance: Tensor, radius: float) -> float:
    """Return the penalty under which E ||delta||^2 = radius^2 at the covariance learned; inf for radius 0."""
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
    """Return the least `alignment` over means, 2 sqrt(s t) / (s + t), s and t the extreme eigenvalues."""
    values = torch.linalg.eigvalsh(covariance)
    cosine: Tensor = 2 * (values[0] * values[-1]).sqrt() / (values[0] + values[-1])
    return cosine


def _robust(values: Tensor, penalty: float) -> Tensor:
    return values / 2 + 1 / penalty + (values / penalty + values.square() / 4).sqrt()


def worst(v: Tensor, covariance: Tensor, radius: float) -> Tensor:
    """Return delta [n, d] with ||delta|| <= radius that maximizes (v + delta)' Sigma^-1 (v + delta)."""
    # (k I - Sigma^-1)^-1 Sigma^-1 v, with k above the largest eigenvalue of Sigma^-1 such that its length is
    # the radius (a trust-region problem); a row that is 0 along the least eigenvalue of Sigma would have two
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
    """Return (mean [d], covariance [d, d]) of robust maximum likelihood on samples y x [n, d], in a ball."""
    # at the solution both are those of their own worst points; steps grow shorter, as some samples have two
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


DRAWS, STARTS, LONGEST = 500, 8, 200


@dataclass(frozen=True)
class Check:
    """A claim, how far what was found is from it, and how far it may be."""

    theorem: int
    claim: str
    deviation: float
    tolerance: float

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "holds": self.deviation <= self.tolerance}


def twice_loss(v: Tensor, covariance: Tensor) -> Tensor:
    """Return [...], minus twice the log-likelihood of v [..., d] in N(0, covariance), by torch."""
    density = MultivariateNormal(torch.zeros(len(covariance), dtype=torch.float64), covariance)
    value: Tensor = -2 * density.log_prob(v)  # type: ignore[no-untyped-call]
    return value


def penalized(v: Tensor, covariance: Tensor, penalty: float) -> Tensor:
    """Return delta [n, d] that maximizes twice the loss at v + delta minus penalty * ||delta||^2."""

    def objective(delta: Tensor, at: Tensor) -> Tensor:
        return twice_loss(at + delta, covariance) - penalty * delta.square().sum()

    still = torch.zeros_like(v[0])
    gradient_of = torch.func.grad(objective)
    hessian = torch.func.jacrev(gradient_of)(still, v[0])
    gradient = torch.func.vmap(gradient_of, (None, 0))(still, v)
    delta: Tensor = -torch.linalg.solve(hessian, gradient.T).T
    return delta


def measured_vulnerability(covariance: Tensor, penalty: float, samples: int, seed: int) -> float:
    """Return what `vulnerability` says, by the attack on samples."""
    v = whitened(covariance, samples, seed)
    attacked = v + penalized(v, covariance, penalty)
    return float((twice_loss(attacked, covariance) - twice_loss(v, covariance)).mean())


def learned_under(signed: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return (mean, covariance) that minimize the loss under the penalized adversary, by descent."""
    size, spread = signed.shape[1], float(signed.std())
    mean = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    factor = (torch.eye(size, dtype=torch.float64) * spread).requires_grad_()
    round_part = torch.eye(size, dtype=torch.float64) / penalty  # above it the adversary's gain is bounded

    def loss() -> Tensor:
        covariance = factor @ factor.T + round_part
        v = signed - mean
        with torch.no_grad():
            delta = penalized(v, covariance, penalty)
        # the gradient of a maximum is that at the point which attains it
        return (twice_loss(v + delta, covariance) - penalty * delta.square().sum(1)).mean()

    _descend([mean, factor], loss)
    return mean.detach(), (factor @ factor.T + round_part).detach()


def _descend(parameters: list[Tensor], value_of: Callable[[], Tensor]) -> None:
    """Take `parameters` to where `value_of` is least, as far as float64 tells."""
    descent = torch.optim.LBFGS(
        parameters, max_iter=LONGEST, tolerance_grad=1e-12, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        descent.zero_grad()
        value = value_of()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    descent.step(closure)  # type: ignore[no-untyped-call]


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def first(covariance: Tensor, samples: int, seed: int, where: str = "") -> Iterator[Check]:
    """Theorem 1: the loss that the adversary adds, and that a round covariance loses least."""
    values = torch.linalg.eigvalsh(covariance)
    penalty = 2 / float(values[0])
    found = measured_vulnerability(covariance, penalty, samples, seed)
    expected = float(vulnerability(covariance, penalty))
    yield Check(1, f"loss added by the adversary{where}", abs(found / expected - 1), 1e-6)
    best = float(vulnerability(values.mean() * torch.eye(len(values), dtype=torch.float64), penalty))
    others = (float(vulnerability(other, penalty)) for other in _of_one_trace(covariance, penalty, seed))
    lower = sum(other <= best for other in others)
    yield Check(1, f"{DRAWS} covariances of one trace lose more than the round one{where}", lower, 0)


def second(
    mean: Tensor, covariance: Tensor, radii: tuple[float, ...], samples: int, seed: int
) -> Iterator[Check]:
    """Theorem 2: the mean and the covariance learned robustly, and what the adversary spends."""
    signed = mean + whitened(covariance, samples, seed)
    for radius in radii:
        penalty = penalty_for(covariance, radius)
        expected = robust_covariance(covariance, penalty)
        found_mean, found = learned_under(signed, penalty)
        spent = penalized(signed - mean, expected, penalty).square().sum(1).mean().sqrt()
        yield Check(2, f"mean learned at {radius:g}", apart(found_mean, mean), 1e-4)
        yield Check(2, f"covariance learned at {radius:g}", apart(found, expected), 1e-4)
        yield Check(2, f"length of the perturbation at {radius:g}", abs(float(spent) / radius - 1), 1e-6)


def third(covariance: Tensor, radii: tuple[float, ...], seed: int, where: str = "") -> Iterator[Check]:
    """Theorem 3: the least alignment of gradient and mean, and that it grows with the radius."""
    cosines = []
    for radius in (0.0, *radii):
        learned = robust_covariance(covariance, penalty_for(covariance, radius))
        cosines.append(float(least_alignment(learned)))
        apart_by = abs(_least_by_search(learned, seed) - cosines[-1])
        yield Check(3, f"least alignment at {radius:g}{where}", apart_by, 1e-6)
    yield Check(3, f"the least alignment grows with every radius{where}", fallen(cosines), 0)


def fallen(values: Sequence[float]) -> int:
    return sum(later <= earlier for earlier, later in pairwise(values))


def _of_one_trace(covariance: Tensor, penalty: float, seed: int) -> Iterator[Tensor]:
    """Covariances with the trace of the given one, whose eigenvalues exceed 1 / penalty."""
    size, trace = len(covariance), float(covariance.trace())
    least = 1.01 / penalty
    keys = torch.arange(DRAWS)
    parts = -(1 - rng.uniform(size, rng.derive(seed, "trace"), keys).double()).log()
    turns = rng.normal(size * size, rng.derive(seed, "turn"), keys).double().view(-1, size, size)
    for part, turn in zip(parts / parts.sum(1, keepdim=True), torch.linalg.qr(turns).Q, strict=True):
        yield turn @ torch.diag(least + (trace - size * least) * part) @ turn.T


def _least_by_search(covariance: Tensor, seed: int) -> float:
    """Return the least alignment over directions, by descent from several."""
    drawn = rng.normal(len(covariance), rng.derive(seed, "direction"), torch.arange(STARTS)).double()
    for direction in (starts := [start.clone().requires_grad_() for start in drawn]):
        _descend([direction], partial(alignment, direction, covariance))
    return min(float(alignment(found.detach(), covariance)) for found in starts)


@dataclass(frozen=True, eq=False)
class Learned:
    """Robust classes: by theorem 2, in a ball, and by adversarial training in that ball."""

    radius: float
    penalty: float
    theorem: Tensor
    ball_mean: Tensor
    ball: Tensor
    trained_mean: Tensor
    trained: Tensor
    gradient: Tensor

    def as_json(self) -> dict[str, Any]:
        told = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return {**told, "penalty": finite(self.penalty), "apart": apart(self.theorem, self.ball)}
