"""Certified robustness by randomized smoothing: the classifier that a model is on average, under noise."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_count, check_flag, check_number, check_share, knowing
from fastadv.card import card
from fastadv.certify.noise import Noise
from fastadv.certify.passes import Smoothed
from fastadv.certify.result import Certificates
from fastadv.certify.sequential import Fixed, Sequential
from fastadv.data._batches import batches
from fastadv.data.given import Data, as_dataset
from fastadv.data.sampling import first_samples, sample_count
from fastadv.engine import Prepared, prepare
from fastadv.engine.arguments import check_input
from fastadv.errors import InputError
from fastadv.intervals import clopper_pearson
from fastadv.ops._rows import check_column
from fastadv.progress import Progress, check_progress, shown

PART, ON_GPU = 16, 256  # images whose draws share passes; those of fewer do not fill a GPU's


@knowing
def smooth(
    model: nn.Module | Prepared, data: Data, sigma: float, n0: int = 100, n: int = 100_000,
    alpha: float = 1e-3, radii: Sequence[float] | None = None, *, sequential: bool = True, sound: bool = True,
    seed: int = 0, limit: int | None = None, batch_size: int = 1024, progress: Progress = False,
    freeze: bool | None = None,
) -> Certificates:  # fmt: skip
    """Certify the decisions of the smoothed classifier: the class that a model gives most often under noise.

    The class of an image is guessed from `n0` draws. Further draws bound its probability from below, and with
    it the radius in L2 within which no perturbation changes the decision. Each certificate is wrong with a
    probability of at most `alpha`. It is about the smoothed classifier (`predict`), not about the model.

    A sequential run stops as soon as every question "is the radius at least r?" has an answer, and is right
    whenever it stops; otherwise it is the method of Cohen et al., `n` draws for each image.

    The draws of an image depend on (seed, its position, number of the draw) alone, and are the same bits on
    every device.

    Args:
        model: a module or Frozen; x [B, ...] to logits [B, K], K at least 2. Rows of logits that are not
            finite are votes against.
        data: as in `fastadv.evaluate`; images on the grid of 1/255.
        sigma: the standard deviation of the noise, of Gaussian noise, in input units.
        n0: draws that choose the class.
        n: the most draws that bound the probability of that class, for each image.
        alpha: the probability of a wrong certificate, for each image.
        radii: the radii to decide on; None takes a ladder: quarters of sigma.
        sequential: stop as soon as all radii are decided; else make all draws, as in the paper, and `radii`
            change nothing.
        sound: refuse images off the grid of 1/255; else certify the nearest points of the grid.
        seed: of all draws.
        limit: use the first samples only, as `fastadv.evaluate` does.
        batch_size: noisy copies that pass at once; those of several images share a batch.
        progress: True shows a bar on stderr; a function is called with (images done, images in all).
        freeze: whether to pass a frozen copy (`fastadv.freeze`); None does so where the work is long.

    Returns:
        The `Certificates`.

    Raises:
        InputError: an argument is out of range, images are off the grid, or labels are no classes of the
            model.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=4)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> fa.certify.smooth(model, digits, 0.25, n=1000, sound=False).radius.shape
        torch.Size([4])

    Source:
        Cohen et al. 2019 (arXiv 1902.02918), the function CERTIFY. Sequential: Voracek 2024
        (arXiv 2406.17830). Floating point: Voracek and Hein 2022 (arXiv 2207.07209).
    """
    dataset, noise = as_dataset(data, "data"), Noise(sigma)
    check_count("n0", n0, 1), check_count("n", n, 1), check_count("batch_size", batch_size, 1)
    check_alpha(alpha)
    check_progress(progress)
    check_flag("sequential", sequential), check_flag("sound", sound)
    asked = None if radii is None else _checked(radii)
    count = sample_count(dataset, limit)
    prepared = prepare(model, work=count * n, freeze=freeze)
    rule = {"sigma": sigma, "norm": "L2", "n0": n0, "n": n, "alpha": alpha}
    rule |= {"radii": asked, "sequential": sequential, "sound": sound, "seed": seed}
    smoothed = Smoothed(prepared, noise, rng.derive(seed, "certify"), batch_size, sound)
    positions = first_samples(dataset, limit, tell=True)
    x, _, _ = next(batches(dataset, 1, order=positions[:1], workers=0))
    charge = noise.charge(x.numel())
    judge = Fixed(noise, n, alpha, charge)
    if sequential:
        judge = Sequential(noise, n, alpha, charge, sorted(asked or noise.ladder))
    done = list[dict[str, Tensor]]()
    with prepared.in_eval(), shown(progress, "certifying") as tick:
        for part in torch.split(positions, ON_GPU if smoothed.waits else PART):
            done.append(_certify(smoothed, judge, dataset, part, n0))
            if tick is not None:
                tick(sum(len(one["ids"]) for one in done), count)
    together = {name: torch.cat([part[name] for part in done]) for name in done[0]}
    notes = [] if sound else ["certified are the nearest points on the grid"]
    most = judge.radius(n, n)
    if beyond := [radius for radius in asked or (0.0,) if radius > most or not most]:
        notes.append(f"{n:,} draws certify {most:.3g} at most: no image is certified at {max(beyond):g}")
    measured = {"forwards": prepared.forwards, "notes": notes, "engine": prepared.notes}
    about = card("certificates", {**rule, "limit": limit, "batch_size": batch_size}, **measured)
    return Certificates(**together, radii=asked or (), card=about)


@knowing
def predict(
    model: nn.Module | Prepared, x: Tensor, sigma: float, n: int = 1000, alpha: float = 1e-3, *,
    sound: bool = True, seed: int = 0, ids: Tensor | None = None, batch_size: int = 1024,
    freeze: bool | None = None,
) -> Tensor:  # fmt: skip
    """Decide as the smoothed classifier does.

    The class returned is the most probable one, except with a probability of at most `alpha`.

    Args:
        model: as in `smooth`.
        x: images [B, ...] on the grid of 1/255.
        sigma: as in `smooth`.
        n: draws for each image.
        alpha: the probability of a wrong class.
        sound: refuse images off the grid; False takes the nearest points of the grid.
        seed: of all draws.
        ids: int64 [B], sample numbers, on which the draws depend; 0 to B - 1 unless given.
        batch_size: noisy copies that pass at once.
        freeze: as in `smooth`.

    Returns:
        The classes, int64 [B]; -1 where two classes are too close to tell.

    Raises:
        InputError: an argument is out of range, or images are off the grid.

    Source:
        Cohen et al. 2019 (arXiv 1902.02918), the function PREDICT, a two-sided binomial test.
    """
    check_count("n", n, 1), check_count("batch_size", batch_size, 1), check_flag("sound", sound)
    check_alpha(alpha)
    x = check_input(x, None)
    prepared = prepare(model, work=len(x) * n, freeze=freeze)
    noise = Noise(sigma)
    smoothed = Smoothed(prepared, noise, rng.derive(seed, "predict"), batch_size, sound)
    numbers = torch.arange(len(x), device="cpu") if ids is None else torch.as_tensor(ids, device="cpu")
    check_column("ids", numbers, torch.empty(len(x), device="cpu"), torch.int64)
    votes = smoothed.votes(smoothed.levels(x), numbers, n).long()
    (first, second), (classes, _) = (top.unbind(1) for top in votes.topk(2, 1))
    sure = [
        a + b > 0 and clopper_pearson(a, a + b, level=1 - alpha).low > 0.5
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    return torch.where(torch.tensor(sure, dtype=torch.bool, device="cpu"), classes, -1).to(x.device)


def _certify(smoothed: Smoothed, judge: Fixed, dataset: Any, positions: Tensor, n0: int) -> dict[str, Tensor]:
    x, y, ids = next(batches(dataset, len(positions), order=positions, workers=0))
    levels, y, ids = smoothed.levels(x), y.cpu(), ids.cpu()
    chosen = smoothed.votes(levels, ids, n0)
    if y.min() < 0 or y.max() >= chosen.shape[1]:
        raise InputError(
            f"data: expected labels from 0 to {chosen.shape[1] - 1}, got {int(y.min())} to {int(y.max())}"
        )
    prediction = chosen.argmax(1)
    hits, failed, drawn = torch.zeros_like(ids), torch.zeros_like(ids), torch.full_like(ids, n0)
    radius = torch.zeros(len(ids), dtype=torch.float64, device="cpu")
    abstained = torch.ones(len(ids), dtype=torch.bool, device="cpu")
    wanted = {image: judge.more(0, 0) for image in range(len(ids))}
    for image, cast in smoothed.passes(levels, ids, drawn, wanted):
        hits[image] = cast[prediction[image]]
        draws = int(drawn[image]) - n0
        failed[image] = draws - cast.sum()
        wanted[image] = judge.more(int(hits[image]), draws)
        if not wanted[image]:
            proved = judge.radius(int(hits[image]), draws)
            abstained[image], radius[image] = proved <= 0, proved
    return {
        "ids": ids, "y": y, "prediction": prediction, "radius": radius, "abstained": abstained,
        "hits": hits, "draws": drawn - n0, "failed": failed,
    }  # fmt: skip


def _checked(radii: Any) -> tuple[float, ...]:
    if not isinstance(radii, Iterable) or not (numbers := tuple(radii)):
        raise InputError(f"radii: expected numbers, such as (0.25, 0.5), or None for a ladder, got {radii!r}")
    return tuple(check_number("radii", radius, 0) for radius in numbers)


def check_alpha(alpha: Any) -> None:
    if not 1e-12 <= check_share("alpha", alpha) < 0.5:
        raise InputError(f"alpha: expected a number from 1e-12 to below 0.5, got {alpha}")
