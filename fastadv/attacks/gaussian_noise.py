"""Gaussian noise, scaled to the least that succeeds (Schott et al. 2018)."""

from typing import Unpack

from torch import Tensor

from fastadv import rng
from fastadv.attacks.core import AttackResult, Common, check_finite_box, check_norm, run, takes_common
from fastadv.attacks.methods.noise import Noise, Sizes, noise_rule, scaled
from fastadv.engine import Frozen
from fastadv.engine.frozen import Model
from fastadv.threat import Threat

GAUSSIAN = Noise("gaussian_noise", rng.normal, scaled)


@takes_common
def gaussian_noise(
    model: Model | Frozen,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    levels: int = 100,
    repetitions: int = 10,
    seed: int = 0,
    **common: Unpack[Common],
) -> AttackResult:
    """Find the least Gaussian noise that changes the decision.

    Until a sample has a success, noises of all sizes are drawn (Schott et al. 2018, table 1). The size of a
    noise is its distance to x once it is clamped to the box. From a sample's first success on, the search is
    for less: the success is scaled down as far as it lasts; then fresh noise just smaller than the best is
    drawn until some succeeds, and so on.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. Only decisions are used.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: L2; the radius is inf, or the largest distance of interest. Radius or
            box must be finite.
        levels: an integer >= 1, how many batches of noises are tried. Until a sample has a success, their
            sizes are spread up to the farthest point of the box, or to the radius in a box without edges.
        repetitions: an integer >= 1, noises in a batch; levels * repetitions samples pass the model for
            each image.
        seed: of the noise.
        common: targets, criterion, mask, eot and ids, as in `fastadv.attacks.Common`.

    Where no success was found inside the threat, x itself is returned. Raises InputError on wrong input,
    naming it.
    """
    check_norm("gaussian_noise", threat, ("l2",))
    if not threat.finite:
        check_finite_box("gaussian_noise", threat)
    rule = noise_rule(GAUSSIAN, threat, levels, repetitions)
    return run(model, x, y, threat, rule, rows=Sizes, minimum=True, seed=seed, **common)
