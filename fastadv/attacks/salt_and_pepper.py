"""Salt-and-pepper noise: random coordinates move to the ends of the box (Schott et al. 2018)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.core.problem import check_finite_box
from fastadv.attacks.methods.geometry import told
from fastadv.attacks.methods.noise import Noise, Sizes, noise_rule, signed
from fastadv.ops import project_l0
from fastadv.ops._rows import NO_BOX
from fastadv.threat import Threat


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Schott et al. 2018", tolerance=18)
@core.tested(quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10})
@core.takes_common(norms=("l0",), levels=1, repetitions=1)
def salt_and_pepper(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, levels: int = 100,
    repetitions: int = 10, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the fewest random coordinates that, sent to random ends of the box, change the decision.

    Until a sample has a success, noises of all sizes are drawn. After that fewer coordinates are tried: of
    the success as few are kept as it needs, in the random order in which they came; then fresh noise of one
    coordinate less is drawn until some succeeds, and so on. Coordinates that lie at their end of the box
    already do not count.

    Args:
        threat: L0 with a finite box; the radius is inf, or the largest number of coordinates of interest.
        levels: how many batches of noises are tried, an integer >= 1; 100 of 10 are as many queries as the
            authors' foolbox takes. Until a sample has a success, they change as many coordinates as the
            radius allows or, where that is all, shares that are spread from few to all.

    Source:
        Schott et al. 2018 (arXiv 1805.09190), table 1.
    """
    check_finite_box("salt_and_pepper", threat)
    rule = noise_rule(SALT_AND_PEPPER, threat, levels, repetitions)
    return core.run(model, x, y, threat, rule, rows=Sizes, minimum=True, seed=seed, **common)


def ends(search: core.Search, noise: Tensor) -> Tensor:
    """Return [n, C, ...], the ends of the box that the signs of the noise name, and x outside the mask."""
    beyond = told(torch.gt, noise, 0).sub_(0.5).mul_(torch.inf)
    return search.problem.masked(beyond.clamp_(*search.threat.box))


def flipped(search: core.Search, noise: Tensor, sizes: Tensor) -> Tensor:
    """Return x [n, C, ...] with the `sizes` [n, C] coordinates of the largest noise at the `ends`."""
    x, points = search.x.unsqueeze(1), ends(search, noise)
    loud = told(torch.ne, points, x).mul_(noise).flatten(0, 1)
    kept = project_l0(loud, torch.zeros_like(loud), sizes.flatten(), NO_BOX)
    return x.lerp(points, kept.ne_(0).view_as(points))


SALT_AND_PEPPER = Noise("salt_and_pepper", signed, flipped, whole=True)
