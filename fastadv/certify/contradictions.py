"""Certificates beside what an attack found."""

from typing import Any

import torch
from torch import Tensor

from fastadv.certify.result import Certificates
from fastadv.certify.smooth import predict
from fastadv.errors import InputError


def contradictions(
    certificates: Certificates, x: Tensor, x_adv: Tensor, ids: Tensor, *, model: Any = None, n: int = 1000,
    seed: int = 0,
) -> Tensor:  # fmt: skip
    """Find images whose certificate does not hold at a point within its radius.

    The smoothed classifier decides at the points of the grid next to `x_adv`, as far as these lie within the
    radius. It contradicts the certificate of another class, except with the certificate's own `alpha`.

    Args:
        certificates: the result of `smooth`.
        x: the images [B, ...].
        x_adv: a point for each of them.
        ids: int64 [B], their positions in the data set.
        model: the model; None takes that of the call, which is not stored in files.
        n: draws for each point.
        seed: of all draws.

    Returns:
        int64 [m], the ids of these images.

    Raises:
        InputError: there is no model.
    """
    model = certificates.model if model is None else model
    if model is None:
        raise InputError("model: expected the one that was certified; pass model=")
    config, noise = certificates.card["config"], certificates.noise
    place = {number: k for k, number in enumerate(certificates.ids.tolist())}
    rows = torch.tensor([place.get(number, -1) for number in ids.tolist()], device="cpu")
    point = noise.points(noise.levels(x_adv, sound=False)).cpu()
    center = noise.points(noise.levels(x, sound=config["sound"])).cpu()
    moved = noise.norm(torch.inf, box=(-torch.inf, torch.inf)).distance(point, center)
    within = (rows >= 0) & (moved <= certificates.radius[rows]) & ~certificates.abstained[rows]
    if not bool(within.any()):
        return ids[:0].cpu()
    chosen, numbers = point[within].float(), ids.cpu()[within]
    decided = predict(
        model, chosen, noise.sigma, n, config["alpha"], norm=noise.norm, sound=False, seed=seed, ids=numbers,
        box=noise.box,
    )  # fmt: skip
    other = (decided.cpu() >= 0) & (decided.cpu() != certificates.prediction[rows[within]])
    return numbers[other]
