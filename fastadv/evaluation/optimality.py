"""How near an attack comes to the best of several: the optimality of AttackBench (Cina et al. 2025)."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fastadv.errors import InputError
from fastadv.evaluation.curve import distances_of


def optimality(distances: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Compute the optimality of each attack: 1 where it is the best for every sample, else less.

        optimality = 1 - (A - A*) / (clean * d_max - A*)

    A is the area under the attack's accuracy against radius from 0 to d_max, `A*` that of the best distance
    over all attacks for each sample, d_max the largest of these best distances, and clean the share of
    samples whose best distance is above 0. The value 0 means that the attack breaks no sample within d_max.

    The area is that of the step function. AttackBench's code joins the steps by straight lines, which differs
    by at most about 1 / (2 N) of the area, but more for distances with many ties, such as L0. A sample that
    no attack breaks counts with d_max for every attack.

    Args:
        distances: for each attack [N], on the same samples: 0 where the model is already wrong, inf where the
            attack does not succeed, NaN (counted as 0) where the model's logits are not finite. They are the
            `distance` of the rows of a `Table`; use attacks that minimize the distance, in one norm.

    Returns:
        The optimality of each attack by its name; NaN where the denominator is 0, because nothing
        distinguishes the attacks.

    Raises:
        InputError: there are no attacks, distances of different lengths, or negative ones.

    Example:
        >>> import fastadv as fa
        >>> fa.optimality({"best": [1.0, 2.0], "weak": [2.0, 2.0]})
        {'best': 1.0, 'weak': 0.0}

    Source:
        Cinà et al. 2025, "AttackBench" (arXiv 2404.19460).
    """
    if not distances:
        raise InputError("distances: expected those of at least one attack, got none")
    rows = {name: distances_of(row, f"distances[{name!r}]") for name, row in distances.items()}
    lengths = {len(row) for row in rows.values()}
    if len(lengths) > 1:
        raise InputError(f"distances: expected the same samples for every attack, got {sorted(lengths)}")
    best = np.minimum.reduce(list(rows.values()))
    clean = float(np.mean(best > 0))
    farthest = float(np.max(best, initial=0.0, where=np.isfinite(best)))
    # the area under the share of samples whose distance is above the radius
    areas = {name: float(np.minimum(row, farthest).mean()) for name, row in rows.items()}
    least = float(np.minimum(best, farthest).mean())
    room = clean * farthest - least
    if not room > 1e-12 * farthest:
        return dict.fromkeys(rows, math.nan)
    return {name: 1 - (area - least) / room for name, area in areas.items()}
