"""The theorems of section 4 as numbers: what each claims, what a computation that does not use it finds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from fastadv import rng
from fastadv.studies.ilyas2019 import gaussian
from fastadv.studies.ilyas2019.gaussian import least_alignment, penalty_for, vulnerability, whitened

DRAWS, STARTS, ROUNDS = 500, 8, 200


@dataclass(frozen=True)
class Check:
    """A claim, how far what was found is from it, and how far it may be."""

    theorem: int
    claim: str
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.deviation <= self.tolerance


def twice_loss(v: Tensor, covariance: Tensor) -> Tensor:
    """Return [...], minus twice the log-likelihood of v [..., d] in N(0, covariance), by torch."""
    density = MultivariateNormal(torch.zeros(len(covariance), dtype=torch.float64), covariance)
    value: Tensor = -2 * density.log_prob(v)  # type: ignore[no-untyped-call]
    return value


def penalized(v: Tensor, covariance: Tensor, penalty: float) -> Tensor:
    """Return delta [n, d] that maximizes twice the loss at v + delta minus penalty * ||delta||^2.

    By one Newton step on derivatives that autograd takes of torch's own log-likelihood: the objective is
    quadratic, and the closed form stays out of it.
    """

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
        parameters, max_iter=ROUNDS, tolerance_grad=1e-12, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        descent.zero_grad()
        value = value_of()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    descent.step(closure)  # type: ignore[no-untyped-call]


def apart(found: Tensor, expected: Tensor) -> float:
    """Return ||found - expected|| / ||expected||."""
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
        expected = gaussian.robust_covariance(covariance, penalty)
        found_mean, found = learned_under(signed, penalty)
        spent = penalized(signed - mean, expected, penalty).square().sum(1).mean().sqrt()
        yield Check(2, f"mean learned at {radius:g}", apart(found_mean, mean), 1e-4)
        yield Check(2, f"covariance learned at {radius:g}", apart(found, expected), 1e-4)
        yield Check(2, f"length of the perturbation at {radius:g}", abs(float(spent) / radius - 1), 1e-6)


def third(covariance: Tensor, radii: tuple[float, ...], seed: int, where: str = "") -> Iterator[Check]:
    """Theorem 3: the least alignment of gradient and mean, and that it grows with the radius."""
    cosines = []
    for radius in (0.0, *radii):
        learned = gaussian.robust_covariance(covariance, penalty_for(covariance, radius))
        cosines.append(float(least_alignment(learned)))
        apart_by = abs(_least_by_search(learned, seed) - cosines[-1])
        yield Check(3, f"least alignment at {radius:g}{where}", apart_by, 1e-6)
    yield Check(3, f"the least alignment grows with every radius{where}", fallen(cosines), 0)


def fallen(values: Sequence[float]) -> int:
    """Return how many of the values are not larger than the one before."""
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
        _descend([direction], partial(gaussian.alignment, direction, covariance))
    return min(float(gaussian.alignment(found.detach(), covariance)) for found in starts)
