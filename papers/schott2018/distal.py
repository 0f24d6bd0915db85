"""Distal adversarials, section 5: noise that is classified with confidence."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError


@dataclass(frozen=True, eq=False)
class DistalResult:
    """The images x [B, ...] of the highest confidence met, their confidence, success, and the steps taken.

    For a model that binarizes its input, each pixel is at the edge of the box that the model takes it for.
    """

    x: Tensor
    confidence: Tensor
    success: Tensor
    steps: Tensor


def distal(
    model: nn.Module,
    targets: Tensor,
    shape: tuple[int, ...],
    *,
    steps: int = 1000,
    step_size: float = 1.0,
    momentum: float = 0.95,
    confidence: float = 0.9,
    box: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    ids: Tensor | None = None,
) -> DistalResult:
    """Make images of `shape` from noise that the model, in eval mode, assigns to `targets` [B] surely.

    Gradient ascent with momentum starts at uniform noise, keyed by (seed, id), and stays within the box. The
    confidence in class t is (exp(scale l_t) + floor) / sum_k (exp(scale l_k) + floor) for the logits l, with
    scale and floor of the model where it has them (ABS), else 1 and 0: the softmax. The ascent is on (scale
    l_t - log sum_k (exp(scale l_k) + floor)) / scale, whose gradient the floor does not flatten. A sample
    stops where its gradient is not finite; with 0 steps the noise itself is judged.
    """
    if steps < 0 or not step_size > 0 or not 0 <= momentum < 1 or not 0 < confidence <= 1:
        raise InputError(
            f"expected steps >= 0, step_size > 0, momentum in [0, 1) and confidence in (0, 1], got {steps}, "
            f"{step_size}, {momentum} and {confidence}"
        )
    numbers = torch.arange(len(targets), device=targets.device)
    key, (low, high) = fa.rng.derive(seed, "distal"), box
    noise = fa.rng.uniform(math.prod(shape), key, numbers if ids is None else ids).view(-1, *shape)
    x = (low + (high - low) * noise).clamp(low, high)
    best, surest, taken = x.clone(), torch.full_like(x.flatten(1)[:, 0], -1), torch.zeros_like(numbers)
    live, velocity = torch.ones_like(numbers, dtype=torch.bool), torch.zeros_like(x)
    for step in range(steps + 1):
        rows = live.nonzero().squeeze(1)
        chance, gradient = _look(model, x[rows], targets[rows])
        better = rows[chance > surest[rows]]
        best[better], surest[rows] = x[better], torch.fmax(surest[rows], chance)
        going = gradient.flatten(1).isfinite().all(1) & (surest[rows] < confidence)
        live[rows[~going]] = False
        rows, gradient = rows[going], gradient[going]
        if step == steps or not len(rows):
            break
        taken[rows] += 1
        velocity[rows] = momentum * velocity[rows] + gradient
        x[rows] = (x[rows] + step_size * velocity[rows]).clamp(low, high)
    threshold = fa.freeze(model).input_threshold
    seen = best if threshold is None else torch.where(best >= threshold, high, low)
    return DistalResult(seen, surest, surest >= confidence, taken)


def _look(model: nn.Module, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidence in the targets [n] and the gradient of what is ascended, like x."""
    own = getattr(model, "options", model)  # of ABS; another model may have both itself
    scale = float(getattr(own, "scale", 1.0))
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        scaled = scale * model(leaf)
        floor = torch.tensor(float(getattr(own, "floor", 0.0)), dtype=scaled.dtype, device=scaled.device)
        floored = torch.logaddexp(scaled, floor.log())
        wanted = targets[:, None]
        ascended = (scaled.gather(1, wanted).squeeze(1) - floored.logsumexp(1)) / scale
        (gradient,) = torch.autograd.grad(ascended.sum(), leaf)
    return floored.detach().log_softmax(1).gather(1, wanted).squeeze(1).exp().float(), gradient
