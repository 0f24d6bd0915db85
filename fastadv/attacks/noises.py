"""The least noise that succeeds (Rauber et al. 2017, Schott et al. 2018)."""

from typing import Unpack

from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.core.problem import check_finite_box
from fastadv.attacks.methods.noise import Noise, Sizes, flipped, noise_rule, scaled, signed
from fastadv.threat import Threat

GAUSSIAN = Noise("gaussian_noise", rng.normal, scaled)
UNIFORM = Noise("uniform_noise", signed, scaled)
SALT_AND_PEPPER = Noise("salt_and_pepper", signed, flipped, whole=True)


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


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Rauber et al. 2017", tolerance=16)
@core.tested(quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10})
@core.takes_common(norms=("linf", "l2"), levels=1, repetitions=1)
def uniform_noise(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, levels: int = 100,
    repetitions: int = 10, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the least uniform noise that changes the decision.

    Each coordinate is uniform on both sides of zero. Until a sample has a success, noises of all sizes are
    drawn. The size of a noise is its distance to x once it is clamped to the box. After a sample's first
    success, smaller noises are tried: the success is scaled down as far as it lasts; then fresh noise just
    smaller than the best is drawn until some succeeds, and so on.

    Args:
        threat: Linf or L2; the radius is inf, or the largest distance of interest. Radius or box must be
            finite.
        levels: how many batches of noises are tried, an integer >= 1; 100 of 10 are as many queries as the
            authors' foolbox takes. Until a sample has a success, they have the size of the radius or, where
            that is beyond the box, all sizes up to the box's farthest point.

    Source:
        Rauber et al. 2017 (arXiv 1707.04131).
    """
    if not threat.finite:
        check_finite_box("uniform_noise", threat)
    rule = noise_rule(UNIFORM, threat, levels, repetitions)
    return core.run(model, x, y, threat, rule, rows=Sizes, minimum=True, seed=seed, **common)


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
