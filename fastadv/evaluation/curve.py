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
    """Robust accuracy over all samples, `accuracy[i]` at `radii[i]`; radii ascend, accuracy never does."""

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
    """Robust accuracy at each radius, for example with `lambda r: functools.partial(fa.attacks.pgd, threat=fa.Linf(r), steps=40)`.

    A sample broken at one radius is broken at every larger one, as its adversarial lies in the larger ball too: the curve is monotone,
    and each radius is tried only on the samples that are left. At radius 0 the accuracy is the clean one, and no attack is run.
    Raises InputError for radii that are empty, negative or not finite, and as `evaluate` does.
    """
    tried = np.unique(np.asarray(radii, dtype=np.float64))
    if tried.size == 0 or not np.isfinite(tried).all() or tried[0] < 0:
        raise InputError(
            f"radii: expected finite numbers of at least 0, got {list(radii)}; pass for example [0, 0.1, 0.2]"
        )
    attacks = {f"radius {radius:g}": attack_for_radius(float(radius)) for radius in tried if radius > 0}
    check_evaluation(dataset, attacks, batch_size, limit)
    frozen = freeze(model)
    left = np.zeros(tried.size)
    samples = 0
    for x, y, ids, prediction in predictions(frozen, dataset, batch_size, limit):
        samples += len(y)
        alive = (prediction == y).nonzero().flatten()
        if tried[0] == 0:
            left[0] += len(alive)
        for place, (name, attack) in enumerate(attacks.items(), start=tried.size - len(attacks)):
            if len(alive):
                alive = alive[~run_attack(name, attack, frozen, x[alive], y[alive], ids[alive]).success]
            left[place] += len(alive)
    return Curve(tried, left / samples)
