"""Gaussian noise, scaled to the least that succeeds (Schott et al. 2018)."""

from typing import Unpack

from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.core.problem import check_finite_box
from fastadv.attacks.methods.noise import Noise, Sizes, noise_rule, scaled
from fastadv.threat import Threat

GAUSSIAN = Noise("gaussian_noise", rng.normal, scaled)


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Schott et al. 2018", tolerance=12)
@core.tested(quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10})
@core.takes_common(norms=("l2",), levels=1, repetitions=1)
def gaussian_noise(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, levels: int = 100,
    repetitions: int = 10, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the least Gaussian noise that changes the decision.

    Until a sample has a success, noises of all sizes are drawn. The size of a noise is its distance to x once
    it is clamped to the box. After a sample's first success, smaller noises are tried: the success is scaled
    down as far as it lasts; then fresh noise just smaller than the best is drawn until some succeeds, and so
    on.

    Args:
        threat: L2; the radius is inf, or the largest distance of interest. Radius or box must be finite.
        levels: how many batches of noises are tried, an integer >= 1; 100 of 10 are as many queries as the
            authors' foolbox takes. Until a sample has a success, they have the size of the radius or, where
            that is beyond the box, all sizes up to the box's farthest point.

    Source:
        Schott et al. 2018 (arXiv 1805.09190), table 1.
    """
    if not threat.finite:
        check_finite_box("gaussian_noise", threat)
    rule = noise_rule(GAUSSIAN, threat, levels, repetitions)
    return core.run(model, x, y, threat, rule, rows=Sizes, minimum=True, seed=seed, **common)
