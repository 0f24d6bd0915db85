"""NuAT: one step, and the nuclear norm of how far it moves the logits of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv import rng
from fastadv._checks import check_count, check_number
from fastadv.engine import Frozen
from fastadv.errors import InputError
from fastadv.losses import Loss
from fastadv.threat import Linf
from fastadv.train.recipes._common import (
    ascent,
    check_finite,
    check_objective,
    drawn,
    frozen_twin,
    mean_loss,
    step_length,
)
from fastadv.train.recipes.base import BatchPart, Crafted, OwnStep, Step


def nuclear_direction(apart: Tensor) -> Tensor:
    """Compute the gradient of the nuclear norm of `apart` [B, K]: U Vᵀ, without singular values of zero."""
    u, size, v = torch.linalg.svd(apart.detach().double(), full_matrices=False)
    known = size > torch.finfo(apart.dtype).eps * max(apart.shape) * size.amax()
    way: Tensor = ((u * known) @ v).to(apart.dtype)
    return way


@dataclass(frozen=True)
class NuAT(Crafted, OwnStep):
    """J(x, y) + weight · ‖f(x) - f(x_adv)‖ / B, the nuclear norm over the logits [B, K] of a batch of B.

    x_adv is one step of a radius from x ± radius / 2, a sign for each pixel at random, keyed by (seed, id),
    clamped to the box before and projected on ball and box after. The step ascends J, and in every other
    batch J + weight · the same norm. Called as a loss, in a loop of one's own, the recipe has the whole
    weight, and its examples ascend J alone.

    Several processes take the norm over the whole batch. The authors compare with logits of x in train mode
    while they craft; here the attacked copy is in eval mode for both, as in all recipes.

    Args:
        threat: Linf with one finite radius, in input units.
        weight: of the norm, >= 0; 4.5 is the authors' for ResNet-18 on CIFAR-10, 4 that of the FastAT
            benchmark.
        rise: epochs in which the weight grows from 0 to the one given, >= 1: in the paper all but the last 10
            of 100.
        label_smoothing: that of J, in [0, 1).

    Source:
        Sriramanan et al. 2021 (NeurIPS, Towards efficient and effective adversarial training), equations 3
        and 4.
    """

    threat: Linf
    weight: float = 4.5
    rise: int = 90
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_finite(self.threat, "noise in the ball")
        if not isinstance(self.threat, Linf):
            raise InputError(f"threat: expected fa.Linf, got {type(self.threat).__name__}; use TRADES")
        check_number("weight", self.weight, 0)
        check_count("rise", self.rise, 1)
        check_objective(self.label_smoothing)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        return self._climbed(model, x, y, self._start(x, ids, seed))

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        passed = self._pass(model, x, x_adv)
        return self._loss(passed, nuclear_direction(passed[1]), y, self.weight)

    def step(self, at: Step) -> Sequence[Tensor]:
        weight = self.weight * min(at.epoch - 1, self.rise) / self.rise
        frozen = frozen_twin(at.model)

        def crafted(part: BatchPart, start: Tensor, way: Tensor | None = None) -> Tensor:
            with part.autocast():
                return self._climbed(frozen, part.x, part.y, start, None if way is None else weight * way)

        def passed(part: BatchPart, x_adv: Tensor) -> tuple[Tensor, Tensor]:
            with part.autocast():
                return self._pass(part.model, part.x, x_adv)

        def seen(part: BatchPart, start: Tensor) -> Tensor:
            with part.autocast():
                return (frozen(part.x) - frozen(start)).float()

        starts = at.each(lambda part: self._start(part.x, part.ids, part.seed))
        ways: list[Sequence[Tensor]] = []
        if weight and at.index % 2:
            ways = [_directions(at, at.each(seen, starts))]
        logits = at.each(passed, at.each(crafted, starts, *ways))
        ways = [_directions(at, [apart for _, apart in logits])]
        losses = at.each(lambda part, own, way: self._loss(own, way, part.y, weight), logits, *ways)
        at.backward(losses)
        at.descend()
        return losses

    def _start(self, x: Tensor, ids: Tensor | None, seed: int) -> Tensor:
        sign = (drawn(rng.uniform, x, ids, seed, "nuat") >= 0.5).to(x) * 2 - 1
        return (x + float(self.threat.radius) / 2 * sign).clamp(*self.threat.box)

    def _climbed(
        self, model: nn.Module | Frozen, x: Tensor, y: Tensor, start: Tensor, way: Tensor | None = None
    ) -> Tensor:
        """Take one step on J; with `way` also against it, where the norm grows."""

        def farther(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            assert way is not None
            return cross_entropy(logits, y, reduction="none") - (way * logits).sum(1)

        loss: Loss = "ce" if way is None else farther
        length = step_length(self.threat, None)
        return ascent(model, x, y, self.threat, 1, length, loss=loss, start=start)

    def _pass(self, model: nn.Module, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of x, and how far those of x_adv are from them."""
        adversarial, clean = model(x_adv), model(x)
        return clean, (clean - adversarial).to(torch.promote_types(clean.dtype, torch.float32))

    def _loss(self, passed: tuple[Tensor, Tensor], way: Tensor, y: Tensor, weight: float) -> Tensor:
        """Compute the loss of these rows, whose share of the norm is the mean of <way, apart>."""
        clean, apart = passed
        return mean_loss(clean, y, self.label_smoothing) + weight * (way * apart).sum(1).mean()


def _directions(at: Step, apart: Sequence[Tensor]) -> Sequence[Tensor]:
    """Compute the direction of the nuclear norm over the whole batch, and return each part's rows of it."""
    way = nuclear_direction(at.share.whole(at.share.joined([rows.detach() for rows in apart])))
    return at.each(lambda part, own: part.share.own(way)[: len(own)], apart)
