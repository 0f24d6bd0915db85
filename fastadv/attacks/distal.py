"""Distal adversarials: noise that is classified with confidence (Schott et al. 2018)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_count, check_number
from fastadv.attacks._problem import check_classes, check_index
from fastadv.engine.freeze import freeze
from fastadv.errors import InputError
from fastadv.threat import L2


@dataclass(frozen=True, eq=False)
class DistalResult:
    """x [B, ...] in the box; confidence [B] of the model in the wanted class at x; success bool [B], whether
    that is the wanted confidence or more; steps int64 [B], the number taken.
    """

    x: Tensor
    confidence: Tensor
    success: Tensor
    steps: Tensor


def distal(
    model: Any,
    targets: Tensor,
    shape: tuple[int, ...],
    *,
    steps: int = 1000,
    step_size: float = 1.0,
    momentum: float = 0.95,
    confidence: float = 0.9,
    scale: float | None = None,
    floor: float | None = None,
    box: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    ids: Tensor | None = None,
) -> DistalResult:
    """Gradient ascent with momentum, from uniform noise and within the box, until the model is confident of
    the target class.

    The confidence in class t is (exp(scale l_t) + floor) / sum_k (exp(scale l_k) + floor) for the logits l.
    The ascent is on (scale l_t - log sum_k (exp(scale l_k) + floor)) / scale, whose gradient the floor does
    not flatten. A model that explains images, as ABS does, is confident only of images that look like the
    class (Schott et al. 2018, section 5).

    Args:
        model: classifier or Frozen; x [B, ...] in the box to logits [B, K].
        targets: int [B], the wanted classes.
        shape: of one image, without the batch.
        steps: at most this many; with 0 the noise itself is judged.
        step_size: a number > 0, the factor of the momentum's step.
        momentum: in [0, 1).
        confidence: the goal, in (0, 1].
        scale, floor: of the confidence; None takes the model's own where it has them (ABS), else 1 and 0: the
            softmax.
        box: (lo, hi) of valid inputs.
        seed, ids: the noise depends on the seed and on each sample's number (default 0 to B - 1) alone.

    Raises InputError on wrong input, naming it.
    """
    check_count("steps", steps, 0)
    _check_open("step_size", check_number("step_size", step_size, 0), steps == 0)
    if check_number("momentum", momentum, 0, 1) == 1:
        raise InputError("momentum: expected a number below 1, got 1")
    _check_open("confidence", check_number("confidence", confidence, 0, 1))
    if not isinstance(targets, Tensor) or targets.ndim != 1:
        got = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise InputError(f"targets: expected integer classes, a tensor [B], got {got}")
    if not isinstance(shape, tuple | list) or not shape:
        raise InputError(f"shape: expected the sizes of one image, such as (1, 28, 28), got {shape!r}")
    for size in shape:
        check_count("shape", size, 1)
    with torch.inference_mode(False), torch.no_grad():
        y = check_index("targets", targets, len(targets), targets.device)
        numbers = torch.arange(len(y), device=y.device)
        if ids is not None:
            numbers = check_index("ids", ids, len(y), y.device)
        lo, hi = L2(torch.inf, box).box
        noise = rng.uniform(torch.Size(shape).numel(), rng.derive(seed, "distal"), numbers)
        x = (lo + (hi - lo) * noise).view(-1, *shape)
        frozen = freeze(model)
        own = getattr(frozen.model, "scale", 1.0), getattr(frozen.model, "floor", 0.0)
        weight = check_number("scale", own[0] if scale is None else scale, 0)
        _check_open("scale", weight)
        least = check_number("floor", own[1] if floor is None else floor, 0)
        level = torch.tensor(least, device=x.device).log()

        def objective(logits: Tensor, y: Tensor, _: Tensor | None) -> Tensor:
            scaled = weight * logits
            total = torch.logaddexp(scaled, level.to(scaled.dtype)).logsumexp(1)
            return (scaled.gather(1, y[:, None]).squeeze(1) - total) / weight

        def confidence_in(logits: Tensor, y: Tensor) -> Tensor:
            shares = torch.logaddexp(weight * logits, level.to(logits.dtype)).softmax(1)
            return shares.gather(1, y[:, None]).squeeze(1).float()

        if len(x):
            check_classes("targets", y, frozen(x[:1]).shape[1])
        velocity = torch.zeros_like(x)
        taken = torch.zeros_like(y)
        index = torch.arange(len(x), device=x.device)
        for step in range(steps + 1):
            _, logits, gradient = frozen.input_gradient(x[index], y[index], objective)
            unsure = confidence_in(logits, y[index]) < confidence
            going = unsure & gradient.flatten(1).isfinite().all(1)
            index = index[going]
            if step == steps or not len(index):
                break
            velocity[index] = momentum * velocity[index] + gradient[going]
            x[index] = (x[index] + step_size * velocity[index]).clamp(lo, hi)
            taken[index] += 1
        # the verdict is that of the model as given
        final = confidence_in(frozen.verdict(x), y) if len(x) else torch.zeros(0, device=x.device)
        return DistalResult(x, final, final >= confidence, taken)


def _check_open(name: str, value: float, allowed: bool = False) -> None:
    if value == 0 and not allowed:
        raise InputError(f"{name}: expected a number > 0, got 0")
