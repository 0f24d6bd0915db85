"""The constants that turn class losses into decisions and confidences, and the one that pruning needs."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

MEDIAN = 0.9
FACTORS = torch.linspace(0.9, 1.1, 41, device="cpu")
# The scale times a median loss is at most this: e^-40 beside 1 is nothing even in double precision.
LARGEST = 40.0
KEPT = 0.998


def class_factors(losses: Tensor, y: Tensor, sweeps: int = 2) -> Tensor:
    """Return gamma [K], the factors nearest 1 on losses [N, K] that get most of the labels right."""
    factors = torch.ones(losses.shape[1], device=losses.device)
    candidates = FACTORS[(FACTORS - 1).abs().argsort(stable=True)].to(losses.device)
    for _ in range(sweeps):
        for k in range(len(factors)):
            trial = factors.repeat(len(candidates), 1)
            trial[:, k] = candidates
            right = torch.stack([(losses * row).argmin(1) == y for row in trial]).sum(1)
            factors[k] = candidates[right.argmax()]
    return factors


def confidence_scale(losses: Tensor, y: Tensor) -> float:
    """Return alpha: the softmax scale with the least cross-entropy on losses [N, K] and labels; bounded."""
    losses = losses.double()
    low, high = 0.0, LARGEST / max(float(losses.amin(1).median()), 1e-12)
    ratio = (math.sqrt(5) - 1) / 2

    def entropy(scale: float) -> float:
        return float(cross_entropy(-scale * losses, y))

    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if entropy(left) < entropy(right) else (left, high)
    return (low + high) / 2


def graded(logits: Tensor, scale: float, floor: float) -> Tensor:
    """Return (exp(scale l_k) + floor) / sum over classes, [B, K], without underflow."""
    return _floored(logits, scale, floor).softmax(1)


def log_graded(logits: Tensor, scale: float, floor: float) -> Tensor:
    return _floored(logits, scale, floor).log_softmax(1)


def _floored(logits: Tensor, scale: float, floor: float) -> Tensor:
    scaled = scale * logits
    return torch.logaddexp(scaled, torch.full_like(scaled, math.log(floor))) if floor > 0 else scaled


def confidence_floor(losses: Tensor, scale: float) -> float:
    """Return eta, which lowers the median confidence of the predicted class to 0.9; 0 if it is lower."""
    losses = losses.double()

    def median(floor: float) -> float:
        return float(graded(-losses, scale, floor).amax(1).median())

    if median(0.0) <= MEDIAN:
        return 0.0
    low, high = -2 * LARGEST, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if median(math.exp(middle)) > MEDIAN else (low, middle)
    return math.exp(low)


def least_share(start: Tensor, losses: Tensor) -> float:
    """Return the share, at most 1, of their first loss above which all but two in a thousand descents end."""
    return min(1.0, float((losses / start).flatten().double().quantile(1 - KEPT)))
