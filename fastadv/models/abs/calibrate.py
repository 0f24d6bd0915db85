"""The three constants that turn class losses into decisions and confidences."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fastadv.models.abs import inference
from fastadv.models.abs.generators import Generators

MEDIAN = 0.9
FACTORS = torch.linspace(0.9, 1.1, 41)
# e^-40 is about the last confidence that differs from none
LARGEST = 40.0
KEPT = 0.998


def class_factors(losses: Tensor, y: Tensor, sweeps: int = 2) -> Tensor:
    """gamma [K] of Binary ABS: a line search, class by class, for the factors on the losses [N, K] that get the most of y right.

    Of equal factors the one nearest 1 is taken.
    """
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
    """alpha: the softmax scale of least cross-entropy on the losses [N, K], a convex problem; bounded, for losses that never err."""
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
    """(exp(scale l_k) + floor) / sum over classes, [B, K], without underflow."""
    scaled = scale * logits
    if floor > 0:
        scaled = torch.logaddexp(scaled, torch.full_like(scaled, math.log(floor)))
    return scaled.softmax(1)


def confidence_floor(losses: Tensor, scale: float) -> float:
    """eta: the floor at which the median confidence of the predicted class is 0.9; 0 where it is lower without any."""
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
    """The share of the losses [N, K] at the best prior samples that all but two in a thousand descents leave."""
    return float((losses / start).flatten().double().quantile(1 - KEPT))


def calibrate(model: Generators, x: Tensor, y: Tensor) -> None:
    """Set the constants of `model` from images x [N, C, H, W] and labels y [N]; see ABS.calibrate."""
    binary, prune = model.binary, model.prune
    model.binary, model.prune = True, False
    model.factors.fill_(1.0)
    model.factors.copy_(class_factors(inference.infer(model, x).loss, y))
    model.binary = binary
    model.prune_gain = least_share(
        inference.infer(model, x, steps=1).loss, losses := inference.infer(model, x).loss
    )
    model.prune = prune
    model.scale = confidence_scale(losses, y)
    model.floor = confidence_floor(losses, model.scale)
