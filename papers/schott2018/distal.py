"""Distal adversarials, section 5: noise that is classified with confidence."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastadv as fa


@dataclass(frozen=True, eq=False)
class DistalResult:
    """The images x [B, ...] of the highest confidence met, their confidence, success, and the steps taken."""

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
    seed: int = 0,
    ids: Tensor | None = None,
) -> DistalResult:
    """Make images of `shape` from noise that the model, in eval mode, assigns to `targets` [B] surely.

    Gradient ascent with momentum starts at uniform noise, keyed by (seed, id), and stays in [0, 1]. The
    confidence in class t is (exp(scale l_t) + floor) / sum_k (exp(scale l_k) + floor) for the logits l, with
    scale and floor of the model where it has them (ABS), else 1 and 0: the softmax. The ascent is on (scale
    l_t - log sum_k (exp(scale l_k) + floor)) / scale, whose gradient the floor does not flatten.
    """
    numbers = torch.arange(len(targets), device=targets.device)
    key = fa.rng.derive(seed, "distal")
    x = fa.rng.uniform(math.prod(shape), key, numbers if ids is None else ids).view(-1, *shape)
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
        x[rows] = (x[rows] + step_size * velocity[rows]).clamp(0, 1)
    threshold = getattr(model, "input_threshold", None)
    seen = best if threshold is None else (best >= threshold).to(best)  # as the model sees it
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
