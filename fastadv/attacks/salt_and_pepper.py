"""Salt-and-pepper noise: random coordinates go to the ends of the box (Schott et al. 2018)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.methods.noise import Noise, Sizes, noise_rule, signed
from fastadv.threat import Threat


@core.takes_common(norms=("l0",), levels=1, repetitions=1)
def salt_and_pepper(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    levels: int = 100,
    repetitions: int = 10,
    seed: int = 0,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the fewest random coordinates that, sent to random ends of the box, change the decision.

    Until a sample has a success, noises of all sizes are drawn (Schott et al. 2018, table 1). From then on
    the search is for less: of the success as few coordinates are kept as it needs, in the random order in
    which they came; then fresh noise of one coordinate less is drawn until some succeeds, and so on.
    Coordinates that lie at their end of the box already do not count.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. Only decisions are used.
        threat: L0 with a finite box; the radius is inf, or the largest number of coordinates of interest.
        levels: an integer >= 1, how many batches of noises are tried; 100 of 10 are as many queries as the
            authors' foolbox takes. Until a sample has a success, they
            change shares of its coordinates that are spread from few to all.
    """
    core.check_finite_box("salt_and_pepper", threat)
    rule = noise_rule(SALT_AND_PEPPER, threat, levels, repetitions)
    return core.run(model, x, y, threat, rule, rows=Sizes, minimum=True, seed=seed, **common)


def ends(search: core.Search, noise: Tensor) -> Tensor:
    """Return [n, C, ...], the ends of the box that the signs of the noise name, and x outside the mask."""
    low, high = search.x.new_tensor(search.threat.box)
    return search.problem.masked(torch.where(noise > 0, high, low))


def flipped(search: core.Search, noise: Tensor, sizes: Tensor) -> Tensor:
    """Return x [n, C, ...] with `sizes` [n, C] coordinates at the `ends` that the noise names.

    They are those of the largest absolute noise among the ones that move there.
    """
    x, points = search.x.unsqueeze(1), ends(search, noise)
    loud = noise.abs().where(points != x, 0.0).flatten(2)
    last = (sizes.long() - 1).clamp(0, loud.shape[2] - 1).unsqueeze(2)
    least = loud.sort(2, descending=True).values.gather(2, last)
    chosen = (loud >= least) & (loud > 0) & (sizes > 0).unsqueeze(2)
    return torch.where(chosen.view_as(points), points, x)


SALT_AND_PEPPER = Noise("salt_and_pepper", signed, flipped, whole=True)
