"""Recipes: what training minimises, as a loss on (model, x, y).

Recipes attack an eval-mode twin that shares the model's weights: the attack computes no weight gradient, moves no BatchNorm
statistic, and leaves the model's modes and gradients alone. The loss itself goes through the model in the mode it is in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.attacks.last_iterate import last_iterate
from fastadv.engine import Frozen, freeze
from fastadv.errors import InputError
from fastadv.threat import Threat

_twins: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Frozen]] = WeakKeyDictionary()


class Recipe(Protocol):
    """A differentiable scalar loss, the mean over the batch; `ids` and `seed` key whatever it draws at random."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor: ...


def twin(model: nn.Module) -> Frozen:
    """The eval-mode twin of a model in training, made once and remade only when the model's tensors are replaced."""
    storage = tuple(tensor.data_ptr() for tensor in chain(model.parameters(), model.buffers()))
    known = _twins.get(model)
    if known is None or known[0] != storage:
        known = _twins[model] = (storage, freeze(model, fold=False))
    return known[1]


def _check_threat(threat: Threat) -> None:
    if not isinstance(threat, Threat):
        raise InputError(
            f"threat: expected fa.Linf, L2, L1 or L0, got {type(threat).__name__}; write for example fa.Linf(8 / 255)"
        )
    if isinstance(threat.radius, Tensor) and threat.radius.ndim > 0:
        raise InputError(
            f"threat: expected one radius for all samples, got shape {tuple(threat.radius.shape)}; pass a number"
        )


def _check_weight(weight: float) -> None:
    if not 0 <= weight <= 1:
        raise InputError(f"weight: expected the share of the clean loss, from 0 to 1, got {weight}")


def _mixture(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, weight: float) -> Tensor:
    """weight · J(x, y) + (1 - weight) · J(x_adv, y) in one pass, so that BatchNorm sees the mixture it will be tested on."""
    if weight == 0:
        return cross_entropy(model(x_adv), y)
    clean, adversarial = model(torch.cat([x, x_adv])).tensor_split(2)
    return weight * cross_entropy(clean, y) + (1 - weight) * cross_entropy(adversarial, y)


@dataclass(frozen=True)
class Standard:
    """The mean cross-entropy on the images as they are."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        return cross_entropy(model(x), y)


@dataclass(frozen=True)
class FGSMTraining:
    """Goodfellow's objective: weight · J(x, y) + (1 - weight) · J(x_adv, y), x_adv one steepest-ascent step of length radius.

    For L∞ x_adv = x + radius · sign(∇J), kept in the threat's box. It is made anew with the current model for every batch, and no
    gradient flows through the sign. weight 0 trains on x_adv alone.

    Raises InputError for a weight outside [0, 1] or a radius per sample.
    Source: Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 6, alpha = 0.5.
    """

    threat: Threat
    weight: float = 0.5

    def __post_init__(self) -> None:
        _check_threat(self.threat)
        _check_weight(self.weight)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        x_adv = last_iterate(
            twin(model), x, y, self.threat, steps=1, step_size=self.threat.default_step_size(1)
        )
        return _mixture(model, x, x_adv, y, self.weight)


@dataclass(frozen=True)
class PGDTraining:
    """Madry's objective: the mean cross-entropy at the last of `steps` projected ascent steps on `loss`.

    step_size is in input units, 2.5 · radius / steps when not given. A random start is uniform in the ball, keyed by (seed, id).
    weight mixes in the loss on clean images, as in FGSMTraining: a net with BatchNorm needs some of it where the radius is so large
    that adversarial and clean images have different statistics (MNIST at 0.3), or it reads clean images wrongly.

    Raises InputError for steps < 1, a step size that is not positive and finite, a weight outside [0, 1], or a radius per sample.
    Source: Madry et al. 2018 (arXiv 1706.06083), equation 2.1.
    """

    threat: Threat
    steps: int
    step_size: float | None = None
    random_start: bool = True
    loss: str | Callable[..., Tensor] = "ce"
    weight: float = 0.0

    def __post_init__(self) -> None:
        _check_threat(self.threat)
        _check_weight(self.weight)
        if self.steps < 1:
            raise InputError(
                f"steps: expected at least 1, got {self.steps}; use Standard() to train without an attack"
            )
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(f"step_size: expected a positive number in input units, got {self.step_size}")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        step_size = self.step_size or self.threat.default_step_size(self.steps, 2.5)
        start = self.threat.random_start(x, seed=seed, ids=ids) if self.random_start else None
        x_adv = last_iterate(
            twin(model), x, y, self.threat, steps=self.steps, step_size=step_size, loss=self.loss, start=start
        )
        return _mixture(model, x, x_adv, y, self.weight)
