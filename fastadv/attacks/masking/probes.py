"""Short looks at some samples that a model gets right: what each asks, and what it costs.

Sources: Pintor et al. 2022, Indicators of Attack Failure; Carlini et al. 2019, On Evaluating Adversarial
Robustness; Croce & Hein 2020.
"""

from math import inf

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.pgd import pgd
from fastadv.attacks.sparse_rs import sparse_rs
from fastadv.attacks.square import square
from fastadv.engine import Frozen
from fastadv.errors import NoGradientError
from fastadv.threat import Linf

AMPLITUDE = 8 / 255  # of the noise that should change nothing, of the box, from end to end
NOISES = 10  # a sample; Pintor et al. draw 100 for fewer samples
DRAWS = 10  # points of the ball that are tried
STEPS, FREE_STEPS = 10, 20  # of PGD at twice the radius, and without a radius
QUERIES = 30  # of Square
WAY, OFF = 0.01, 0.1  # a way by this share of the margin; the gradient may be off by this share of the change
# passes of all looks at a sample that holds, and at one that is broken
SYMPTOMS, ENDS = 12, 10
BROKEN = SYMPTOMS + 2 + NOISES + 2 * STEPS
# a search begins with a point of its own, and ends with a proof
HELD = BROKEN + DRAWS + 2 * FREE_STEPS + QUERIES + ENDS


def without_gradient(frozen: Frozen, x: Tensor, y: Tensor) -> Tensor:
    """Return bool [B]: the gradient of the cross-entropy is zero in all coordinates, or not finite."""
    try:
        gradient = frozen.input_gradient(x, y, "ce")[2].flatten(1)
    except NoGradientError:
        return torch.ones(len(x), dtype=torch.bool)
    return ((gradient == 0).all(1) | ~gradient.isfinite().all(1)).cpu()


def wrong_gradients(frozen: Frozen, problem: Problem) -> Tensor:
    """Return bool [B]: a short way along the gradient of the margin, the loss does not change as it says."""
    x, y, wide = problem.x, problem.y, (slice(None), *[None] * (problem.x.ndim - 1))
    try:
        value, _, gradient = frozen.input_gradient(x, y, "margin")
    except NoGradientError:
        return torch.ones(len(x), dtype=torch.bool)
    length = gradient.flatten(1).square().sum(1)
    moved = (x + (WAY * value.abs() / length)[wide] * gradient).clamp(*problem.threat.box)
    expected = (gradient * (moved - x)).flatten(1).sum(1)
    found = losses.loss_value(frozen.verdict(moved), y, "margin") - losses.loss_value(
        frozen.verdict(x), y, "margin"
    )
    return (~((found / expected - 1).abs() <= OFF)).cpu()


def changes(frozen: Frozen, problem: Problem, seed: int) -> Tensor:
    """Return [B]: by how much noise too small to see changes the loss, at most 1 (Pintor et al. 2022)."""
    x, y, low, high = problem.x, problem.y, *problem.threat.box
    size = AMPLITUDE * (high - low)
    before = losses.loss_value(frozen.verdict(x), y, "ce")
    total = torch.zeros_like(before)
    for draw in range(NOISES):
        noise = rng.uniform(x[0].numel(), seed, problem.ids, draw).view(x.shape).to(x) - 0.5
        after = losses.loss_value(frozen.verdict((x + size * noise).clamp(low, high)), y, "ce")
        total += ((after - before).abs() / before.abs().clamp_min(1e-12)).clamp_max(1)
    return (total / NOISES).cpu()


def broken_by_noise(frozen: Frozen, problem: Problem, seed: int) -> Tensor:
    """Return bool [B]: a random point of the ball is a success."""
    found = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)
    for draw in range(DRAWS):
        found |= problem.met(frozen.verdict(problem.threat.random_start(problem.x, seed, problem.ids, draw)))
    return found.cpu()


def broken_without_radius(frozen: Frozen, problem: Problem, seed: int) -> Tensor:
    """Return bool [B]: PGD in the whole box succeeds."""
    low, high = problem.threat.box
    try:
        out = pgd(
            frozen, problem.x, problem.y, Linf(high - low, problem.threat.box), steps=FREE_STEPS,
            loss="margin", seed=seed, ids=problem.ids,
        )  # fmt: skip
    except NoGradientError:
        return torch.zeros(len(problem.x), dtype=torch.bool)
    return out.success.cpu()


def broken_at_twice(frozen: Frozen, problem: Problem, seed: int) -> Tensor:
    """Return bool [B]: PGD succeeds at twice the radius."""
    wide = problem.threat.with_radius(2 * problem.threat.radius)
    try:
        out = pgd(frozen, problem.x, problem.y, wide, steps=STEPS, loss="margin", seed=seed, ids=problem.ids)
    except NoGradientError:
        return torch.zeros(len(problem.x), dtype=torch.bool)
    return out.success.cpu()


def broken_by_square(frozen: Frozen, problem: Problem, seed: int) -> Tensor:
    """Return bool [B]: a short random search succeeds; in L0 that is Sparse-RS."""
    search = sparse_rs if problem.threat.norm == "l0" else square
    out = search(frozen, problem.x, problem.y, problem.threat, queries=QUERIES, seed=seed, ids=problem.ids)
    return out.success.cpu()


def bounded(problem: Problem) -> bool:
    """Return whether the box has a finite width."""
    low, high = problem.threat.box
    return high - low < inf
