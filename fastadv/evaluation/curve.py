"""Accuracy against radius."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from fastadv.engine import Frozen, freeze
from fastadv.errors import InputError
from fastadv.evaluation.measure import Attack, check_evaluation, predictions, run_attack


class Curve(NamedTuple):
    """Robust accuracy over all samples, `accuracy[i]` at `radii[i]`; radii increase, accuracy never does."""

    radii: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def accuracy_against_radius(
    model: nn.Module | Frozen,
    dataset: Dataset[Any],
    attack_for_radius: Callable[[float], Attack],
    radii: Sequence[float],
    *,
    batch_size: int = 256,
    limit: int | None = None,
) -> Curve:
    """Robust accuracy at each radius.

    attack_for_radius: the attack for a radius, for example
    `lambda r: functools.partial(fa.attacks.pgd, threat=fa.Linf(r), steps=40)`.

    A sample broken at one radius counts as broken at every larger one, since its adversarial example lies in
    the larger ball too: the curve never rises, and each radius is tried only on the samples that are left. At
    radius 0 the accuracy is the clean one, and no attack is run. A sample for which the model's logits are
    not finite counts as not correct. Raises InputError for radii that are empty, negative or not finite, and
    as `evaluate` does.
    """
    try:
        tried = np.unique(np.asarray(radii, dtype=np.float64))
    except (TypeError, ValueError):
        tried = np.empty(0)
    if tried.size == 0 or not np.isfinite(tried).all() or tried[0] < 0:
        raise InputError(
            f"radii: expected finite numbers of at least 0, got {radii!r}; pass for example [0, 0.1, 0.2]"
        )
    # names are for errors alone: two radii may print alike
    attacks = [(f"radius {radius!r}", attack_for_radius(radius)) for radius in tried[tried > 0].tolist()]
    check_evaluation(dataset, dict(attacks), batch_size, limit)
    frozen = freeze(model)
    left = np.zeros(tried.size)
    samples = 0
    for batch in predictions(frozen, dataset, batch_size, limit):
        samples += len(batch.y)
        alive = batch.take(batch.correct)
        if tried[0] == 0:
            left[0] += len(alive.y)
        for place, (name, attack) in enumerate(attacks, start=tried.size - len(attacks)):
            if len(alive.y):
                result = run_attack(name, attack, frozen, alive.x, alive.y, alive.ids)
                alive = alive.take(~result.success)
            left[place] += len(alive.y)
    return Curve(tried, left / samples)
