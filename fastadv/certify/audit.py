"""Make the draws of certificates again, and see whether the certificates stand."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv import rng
from fastadv.certify.passes import Smoothed
from fastadv.certify.result import Certificates
from fastadv.certify.sequential import Fixed, Sequential, judge_of
from fastadv.certify.smooth import predict
from fastadv.data._batches import batches
from fastadv.data.given import Data, as_dataset
from fastadv.engine import Plain
from fastadv.errors import InputError


class Audit(NamedTuple):
    """What the draws of an image came to when they were made again, on the model as given.

    Args:
        id: the image.
        hits: counted then, and now.
        radius: certified then, and by the draws of now.
    """

    id: int
    hits: tuple[int, int]
    radius: tuple[float, float]

    @property
    def stands(self) -> bool:
        """Whether the draws of now certify as much."""
        return self.radius[1] >= self.radius[0]


def audit(
    certificates: Certificates, ids: Tensor | Sequence[int], *, model: Any = None, data: Data | None = None
) -> list[Audit]:
    """Make every draw of some certificates again, one image at a time, by the model as given.

    The noise is the same bits. Logits may round differently, so that a draw on the edge of two classes may
    change sides; a randomized model gives other votes.

    Args:
        certificates: the result of `smooth`.
        ids: of the images.
        model: the model; None takes that of the call, which is not stored in files.
        data: the images, likewise.

    Returns:
        An `Audit` for each image.

    Raises:
        InputError: there is no certificate of an id, or no model or data.
    """
    kept = certificates.of
    prepared, dataset = kept[0] if model is None else model, kept[1] if data is None else data
    if prepared is None or dataset is None:
        raise InputError("model, data: expected those that were certified; pass model= and data=")
    config = certificates.card["config"]
    noise = certificates.noise
    seed = rng.derive(config["seed"], "certify")
    smoothed = Smoothed(Plain(prepared), noise, seed, config["batch_size"], config["sound"])
    judge, images = judge_of(noise, config), as_dataset(dataset)
    if not isinstance(ids, Tensor | Sequence):
        raise InputError(f"ids: expected the ids of images, such as [0, 5], got {ids!r}")
    return [_again(certificates, int(one), smoothed, judge, images) for one in ids]


def _again(
    certificates: Certificates, number: int, smoothed: Smoothed, judge: Fixed | Sequential, dataset: Any
) -> Audit:
    places = (certificates.ids == number).nonzero().flatten().tolist()
    if not places:
        raise InputError(f"ids: expected images that were certified, got {number}")
    place = places[0]
    order = torch.tensor([number], device="cpu")
    x, _, ids = next(batches(dataset, 1, order=order, workers=0, box=smoothed.noise.box))
    levels, ids, n0 = smoothed.levels(x), ids.cpu(), certificates.card["config"]["n0"]
    draws, prediction = int(certificates.draws[place]), int(certificates.prediction[place])
    hits = int(smoothed.votes(levels, ids, draws, first=n0)[0, prediction])
    elements = levels[0].numel()
    radius = smoothed.noise.reach(judge.radius(hits, draws, smoothed.noise.charge(elements)), elements)
    then = int(certificates.hits[place]), float(certificates.radius[place])
    return Audit(number, (then[0], hits), (then[1], radius))


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
        model: as in `audit`.
        n: draws for each point.
        seed: of all draws.

    Returns:
        int64 [m], the ids of these images.

    Raises:
        InputError: there is no model.
    """
    model = certificates.of[0] if model is None else model
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
