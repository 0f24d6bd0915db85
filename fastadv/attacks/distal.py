"""Distal adversarials: noise that is classified with confidence (Schott et al. 2018)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_number, check_share
from fastadv.attacks import core
from fastadv.attacks.core.problem import check_finite_box
from fastadv.attacks.special.labels import check_index
from fastadv.engine import prepare
from fastadv.errors import InputError
from fastadv.threat import Linf


class _Rows(core.Rows):
    velocity: Tensor


@dataclass(frozen=True, eq=False)
class DistalResult:
    """What `distal` returns.

    For a model that binarizes its input, each pixel is at the edge of the box that the model takes it for.
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
    box: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    ids: Tensor | None = None,
) -> DistalResult:
    """Make images from noise that the model assigns to a class with confidence.

    Gradient ascent with momentum starts at uniform noise and stays within the box. The confidence in class t
    is (exp(scale l_t) + floor) / sum_k (exp(scale l_k) + floor) for the logits l, with scale and floor of the
    model where it has them (ABS), else 1 and 0: the softmax. The ascent is on (scale l_t - log sum_k
    (exp(scale l_k) + floor)) / scale, whose gradient the floor does not flatten.

    Args:
        model: classifier or Frozen; x [B, ...] in the box to logits [B, K].
        targets: int [B], the wanted classes.
        shape: of one image, without the batch.
        steps: the most steps; with 0 the noise itself is judged. A sample whose gradient is not finite stops.
        step_size: the factor of the momentum's step, a number > 0.
        momentum: in [0, 1).
        confidence: the goal, in (0, 1].
        box: (lo, hi) of valid inputs, both finite.
        seed: of the noise.
        ids: int [B], sample numbers (default 0 to B - 1), on which the noise depends.

    Returns:
        A result with the images `x` [B, ...], where the goal was not reached those of the highest confidence
        that was met; the model's `confidence` in them, `success`, and the `steps` taken, each [B].

    Raises:
        InputError: an argument is wrong; the message names it.

    Source:
        Schott et al. 2018, "Towards the First Adversarially Robust Neural Network Model on MNIST" (arXiv
        1805.09190), section 5.
    """
    core.check_count("steps", steps, 0)
    if check_number("step_size", step_size, 0) == 0 and steps:
        raise InputError("step_size: expected a number > 0, got 0")
    check_share("momentum", momentum, zero=True)
    check_share("confidence", confidence, one=True)
    if not isinstance(targets, Tensor) or targets.ndim != 1:
        got = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise InputError(f"targets: expected integer classes, a tensor [B], got {got}")
    if not isinstance(shape, tuple | list) or not shape:
        raise InputError(f"shape: expected the sizes of one image, such as (1, 28, 28), got {shape!r}")
    for size in shape:
        core.check_count("shape", size, 1)
    threat = Linf(torch.inf, box)
    check_finite_box("distal", threat)
    classifier = prepare(model)
    own = classifier.model
    options = getattr(own, "options", own)  # of ABS; another model may have both itself
    goal = _Confident(
        confidence, float(getattr(options, "scale", 1.0)), float(getattr(options, "floor", 0.0))
    )
    with torch.inference_mode(False), torch.no_grad():
        targets = check_index("targets", targets, len(targets), targets.device)
        numbers = torch.arange(len(targets), device=targets.device)
        ids = numbers if ids is None else check_index("ids", ids, len(targets), targets.device)
        noise = rng.uniform(math.prod(shape), rng.derive(seed, "distal"), ids).view(-1, *shape)
        low, high = threat.box
        start = (low + (high - low) * noise).clamp(low, high)
        taken = torch.zeros_like(numbers)

        def rule(search: core.Search[_Rows]) -> None:
            points, rows = search.start(), search.rows
            rows.velocity = torch.zeros_like(points)
            taken[search.per_sample(numbers)] = 0
            for _ in range(steps):
                look = search.gradient(points, goal.ascended)
                stuck = ~search.best.largest_gradient.isfinite()
                taken[search.per_sample(numbers)] += ~(stuck | search.best.success)
                search.leave(stuck)
                rows.velocity = momentum * rows.velocity + look.gradient
                points = (look.x_adv + step_size * rows.velocity).clamp(low, high)
            search.finish(points)

        # the core wants labels other than the targets; here they have no part
        labels = (targets == 0).long()
        common = core.Common(targets=targets, criterion=goal, ids=ids)
        out = core.run(
            classifier, start, labels, threat, rule, rows=_Rows, loss=goal.log_confidence, stop_early=True,
            **common,
        )  # fmt: skip
        seen, threshold = out.x_adv, classifier.input_threshold
        if threshold is not None:
            seen = torch.where(seen.to(classifier.sees(seen.dtype)) >= threshold, high, low)
        return DistalResult(seen, out.loss.exp().float(), out.success, taken)


@dataclass(frozen=True)
class _Confident(core.Criterion):
    """The target has at least this confidence, by a softmax with this scale and floor."""

    confidence: float
    scale: float
    floor: float

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.log_confidence(logits, y, targets).exp() >= self.confidence

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.log_confidence(logits, y, targets) - math.log(self.confidence)

    def log_confidence(self, logits: Tensor, _: Tensor, targets: Tensor | None) -> Tensor:
        return _of(self._floored(self.scale * logits).log_softmax(1), targets)

    def ascended(self, logits: Tensor, _: Tensor, targets: Tensor | None) -> Tensor:
        scaled = self.scale * logits
        return (_of(scaled, targets) - self._floored(scaled).logsumexp(1)) / self.scale

    def _floored(self, scaled: Tensor) -> Tensor:
        """Return [n, K], log(exp(scaled) + floor)."""
        floor = torch.tensor(self.floor, dtype=scaled.dtype, device=scaled.device)
        return torch.logaddexp(scaled, floor.log())


def _of(values: Tensor, targets: Tensor | None) -> Tensor:
    assert targets is not None
    return values.gather(1, targets[:, None]).squeeze(1)
