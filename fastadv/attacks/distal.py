"""Distal adversarials: images that look like noise and yet are classified with confidence (Schott et al. 2018, section 5)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_count
from fastadv.attacks._problem import check_step_size
from fastadv.engine.freeze import freeze
from fastadv.errors import InputError


@dataclass(frozen=True, eq=False)
class DistalResult:
    """x [B, ...] in the box; the model's confidence [B] in the wanted class at x; whether that reached the goal, bool [B]; steps taken, int64 [B]."""

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
    """From uniform noise, raise the confidence in class targets [B] until it reaches `confidence`; gradient ascent with momentum in the box.

    Confidence is (exp(scale l_k) + floor) / sum over classes: scale and floor are the model's own where it has them (ABS), else 1 and 0, the softmax.
    The ascent is on log exp(scale l_t) - log sum (exp(scale l_k) + floor), over scale, whose gradient the floor does not flatten. A model that
    explains images, as ABS does, is confident in none that does not look like the class.

    shape: of one image, without the batch. Raises InputError where targets are not classes of the model or an argument cannot work.
    """
    check_count("steps", steps, 0)
    check_step_size(step_size, len(targets), targets.device)
    if not (0 <= momentum < 1 and 0 < confidence <= 1 and box[0] < box[1]):
        raise InputError(
            f"distal: expected 0 <= momentum < 1, 0 < confidence <= 1 and a box, got {momentum}, {confidence} and {box}"
        )
    if targets.ndim != 1 or targets.dtype != torch.int64:
        raise InputError(f"targets: expected int64 classes [B], got {targets.dtype} {tuple(targets.shape)}")
    with torch.inference_mode(False), torch.no_grad():
        frozen = freeze(model)
        weight = float(getattr(frozen.model, "scale", 1.0)) if scale is None else scale
        least = float(getattr(frozen.model, "floor", 0.0)) if floor is None else floor
        if not (weight > 0 and least >= 0):
            raise InputError(f"distal: expected scale > 0 and floor >= 0, got {weight} and {least}")
        level = torch.tensor(least, device=targets.device).log()

        def objective(logits: Tensor, y: Tensor, _: Tensor | None) -> Tensor:
            scaled = weight * logits
            return (
                scaled.gather(1, y[:, None]).squeeze(1)
                - torch.logaddexp(scaled, level.to(scaled.dtype)).logsumexp(1)
            ) / weight

        def reached(logits: Tensor, y: Tensor) -> Tensor:
            graded: Tensor = (
                torch.logaddexp(weight * logits, level.to(logits.dtype))
                .softmax(1)
                .gather(1, y[:, None])
                .squeeze(1)
            )
            return graded

        numbers = torch.arange(len(targets), device=targets.device) if ids is None else ids
        size = torch.Size(shape).numel()
        x = (box[0] + (box[1] - box[0]) * rng.uniform(size, seed, numbers)).view(-1, *shape)
        classes = frozen(x[:1]).shape[1] if len(x) else 0
        if len(x) and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
            raise InputError(
                f"targets: expected classes 0 to {classes - 1}, got {int(targets.min())} to {int(targets.max())}"
            )
        velocity = torch.zeros_like(x)
        taken = torch.zeros_like(targets)
        found = torch.zeros(len(x), device=x.device)
        index = torch.arange(len(x), device=x.device)
        for step in range(steps + 1):
            _, logits, gradient = frozen.input_gradient(x[index], targets[index], objective)
            found[index] = reached(logits, targets[index]).float()
            going = (found[index] < confidence) & gradient.flatten(1).isfinite().all(1)
            index = index[going]
            if step == steps or not len(index):
                break
            velocity[index] = momentum * velocity[index] + gradient[going]
            x[index] = (x[index] + step_size * velocity[index]).clamp(*box)
            taken[index] += 1
        if len(x):
            # the model as given has the last word
            found = reached(frozen.verdict(x), targets).float()
        return DistalResult(x, found, found >= confidence, taken)
