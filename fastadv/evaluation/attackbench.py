"""An attack measured by the protocol of AttackBench (Cina et al. 2025), which ranks attacks by optimality."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.data import batches
from fastadv.data.batch_size import device_for
from fastadv.data.sampling import first_samples
from fastadv.engine import prepare
from fastadv.errors import InputError
from fastadv.evaluation._metered import Metered
from fastadv.evaluation._outcome import Attack, run_attack
from fastadv.threat import THREATS

PASSES, BATCH_SIZE = 2000, 128


@dataclass(frozen=True)
class Measured:
    """What an attack did to N samples within its passes.

    Attributes:
        norm: the norm that the attack minimizes.
        passes: the most forward and backward passes for a sample, together.
        batch_size: images that were attacked at once.
        hashes: SHA-512 of each image, float32 [C, H, W] in [0, 1], its name in files of best distances.
        correct: bool [N], whether the model classifies the clean image correctly, by finite logits.
        success: bool [N], whether the returned image, one that the attack asked about, or already the clean
            one is misclassified.
        distances: float64 [N] for each norm of `fastadv.threat.THREATS`, by name: of the returned image, or
            else of the nearest misclassified one that the attack asked about; inf without success, 0 where
            the clean image is misclassified.
        best: the same for the nearest misclassified point among all that the attack asked about.
        forwards: int64 [N], forward passes of each sample.
        backwards: int64 [N], backward passes of each sample.
        seconds: of each batch, with the counting.
    """

    norm: str
    passes: int
    batch_size: int
    hashes: tuple[str, ...]
    correct: Tensor
    success: Tensor
    distances: dict[str, Tensor]
    best: dict[str, Tensor]
    forwards: Tensor
    backwards: Tensor
    seconds: tuple[float, ...]


def attackbench(
    model: nn.Module,
    dataset: Dataset[Any],
    attack: Attack,
    norm: str,
    *,
    passes: int = PASSES,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Run a minimum-norm attack with a limit of passes, and keep each sample's best distance.

    The model is searched as given, with nothing rewritten, since AttackBench counts its passes. Attacks of
    fastadv announce whose passes they make, so a sample's result does not depend on its batch; for other
    attacks a point counts for the sample whose x is nearest, as in AttackBench.

    Args:
        model: a module; x [B, ...] in [0, 1] to logits [B, K].
        dataset: of pairs (x, y), such as an `ImageSet`.
        attack: a function (model, x, y, ids=ids) -> AttackResult, such as `partial(fa.attacks.fmn,
            threat=fa.L2(inf), steps=1000)`. It must pass the model that it is given, and no copy of it (no
            `eot`).
        norm: the norm that the attack minimizes, by name: "linf", "l2", "l1", "l0".
        passes: the limit for each sample, forward and backward passes together. Each gradient costs two.
            Beyond it the model answers a sample with its label and a gradient of zero.
        batch_size: samples attacked at once.
        limit: use this many samples only, as in `evaluate`; None uses all.
        progress: called with (done, total).

    Returns:
        The best distance of each sample, with passes and times, which `Submission` takes.

    Raises:
        InputError: the norm is unknown, the limit is below 3 passes, the attack passes another model, or one
            of the errors of `evaluate`.

    Source:
        Cinà et al. 2025, "AttackBench" (arXiv 2404.19460).
    """
    if norm not in THREATS:
        raise InputError(f"norm: expected one of {', '.join(THREATS)}, got {norm!r}")
    check_count("passes", passes, 3)
    check_count("batch_size", batch_size, 1)
    chosen = first_samples(dataset, limit, tell=True)
    total = len(chosen)
    place, threat = device_for(prepare(model)), THREATS[norm](inf)
    hashes: list[str] = []
    seconds: list[float] = []
    parts: list[dict[str, Tensor]] = []
    for x, y, ids in batches(dataset, batch_size, order=chosen):
        hashes += [hashlib.sha512(image.contiguous().numpy().tobytes()).hexdigest() for image in x.cpu()]
        x, y, ids = x.to(place), y.to(place), ids.to(place)
        metered = Metered(model, x, y, ids, threat, passes)
        started = time.perf_counter()
        result = run_attack("attack", attack, metered, x, y, ids)
        wrong = ~result.correct.to(place)
        found = result.success.to(place) | wrong
        seconds.append(time.perf_counter() - started)
        if not bool(metered.forwards_of.any()):
            raise InputError(
                "attack: expected one that passes the model it is given, got one that passes another, whose "
                "passes cannot be counted; leave out eot and sources"
            )
        known = (metered.distance < inf) | wrong
        x_adv = torch.where(_like(found, x), result.x_adv.to(x), metered.x_adv)
        parts.append(
            {
                "correct": result.correct,
                "success": found | known,
                "forwards": metered.forwards_of,
                "backwards": metered.backwards_of,
                **{f"distances.{name}": _distance(name, x_adv, x, found | known) for name in THREATS},
                **{f"best.{name}": _distance(name, metered.x_adv, x, known) for name in THREATS},
            }
        )
        if progress is not None:
            progress(len(hashes), total)
    whole = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
    distances, best = ({n: whole.pop(f"{kind}.{n}") for n in THREATS} for kind in ("distances", "best"))
    return Measured(
        norm,
        passes,
        batch_size,
        tuple(hashes),
        distances=distances,
        best=best,
        seconds=tuple(seconds),
        **whole,
    )


def _distance(norm: str, x_adv: Tensor, x: Tensor, success: Tensor) -> Tensor:
    return THREATS[norm](inf).distance(x_adv, x).masked_fill(~success, inf)


def _like(found: Tensor, x: Tensor) -> Tensor:
    return found.view(-1, *[1] * (x.ndim - 1))
