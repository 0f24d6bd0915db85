"""The options of ABS inference, numbers and choices, and those that are set from labeled images."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fastadv._checks import check_choice, check_count, check_flag, check_number, meant
from fastadv.errors import InputError

InputGrad = Literal["envelope", "unrolled"]
Precision = Literal["fp32", "bf16"]
# A share of their first loss above which 99.8% of the descents of 3,000 training images end with the
# authors' weights.
PRUNE_GAIN = 0.385


@dataclass(frozen=True)
class InferenceOptions:
    """The options of an ABS. `ABS.options` holds them, and calls take others as an argument.

    A value outside its range raises InputError.

    Args:
        beta: weight of the prior in the class loss, at least 0.
        binary: Binary ABS: pixels >= 0.5 become 1, others 0, and class losses are multiplied by `factors`.
        steps: evaluations of the latent descent: steps - 1 updates by Adam, then the loss.
        step_size: of Adam.
        max_norm: latents with a larger L2 norm are rescaled to it after each step.
        prune: whether to skip the descent of a class that would not win even if the descent reduced its loss
            to `prune_gain` times that of its best prior sample. The class keeps the loss of that sample, and
            no other loss changes. Classes take turns, which saves time on a CPU; a GPU, where it would cost
            time, skips none.
        prune_gain: from 0 (no class is skipped) to 1 (a class is skipped as soon as another is better).
        precision: "fp32", or "bf16" for a latent descent in bfloat16.
        input_grad: how logits depend on x: "envelope" (exact at a converged latent, cheap) or "unrolled"
            (through every step, in the precision of the weights). With `binary` both are taken at the
            binarized image and pass straight through to x.
        scale: alpha of the confidence (exp(alpha l_k) + eta) / sum over classes.
        floor: eta of the confidence.
    """

    beta: float = 1.0
    binary: bool = False
    scale: float = 440.0
    floor: float = 3.9e-5
    max_norm: float = 5.0
    input_grad: InputGrad = "envelope"
    prune: bool = False
    precision: Precision = "fp32"
    steps: int = 50
    step_size: float = 0.05
    prune_gain: float = PRUNE_GAIN

    def __post_init__(self) -> None:
        for name, choices in (("input_grad", get_args(InputGrad)), ("precision", get_args(Precision))):
            check_choice(name, getattr(self, name), choices)
        for name in ("binary", "prune"):
            check_flag(name, getattr(self, name))
        check_count("steps", self.steps, 1)
        for name in ("beta", "scale", "floor"):
            check_number(name, getattr(self, name), 0)
        check_number("prune_gain", self.prune_gain, 0, 1)
        for name in ("step_size", "max_norm"):
            if not check_number(name, getattr(self, name), 0) > 0:
                raise InputError(f"{name}: expected a positive number, got 0")

    def changed(self, **changes: Any) -> Self:
        """Replace some options."""
        known = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(changes.keys() - set(known))
        if unknown:
            near = meant(unknown[0], known)
            raise InputError(f"options: expected some of {', '.join(known)}, got {', '.join(unknown)}{near}")
        return dataclasses.replace(self, **changes)


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
