"""Accuracy against radius."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fastadv._checks import knowing, warn
from fastadv.attacks import ATTACKS
from fastadv.attacks.core.card import name_of
from fastadv.attacks.core.criterion import Criterion
from fastadv.attacks.methods.claims import CLAIMS, UNTOLD, claim_flags
from fastadv.data.content import describe_data
from fastadv.data.given import Data
from fastadv.data.sampling import sample_count
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.evaluation.evaluate import evaluate
from fastadv.intervals import clopper_pearson
from fastadv.measure.attacks import named, plan_of
from fastadv.measure.batch import Batch
from fastadv.measure.bound import Attack, minimizes, threat_of
from fastadv.measure.job import description, environment, prepared
from fastadv.measure.outcome import NOT_RUN, attempted
from fastadv.progress import Progress, check_progress, shown, tell
from fastadv.runs import processes
from fastadv.text import Cells, in_html, in_text, percent
from fastadv.threat import Threat
from fastadv.threat.checks import check_threat

Radii = Sequence[float] | NDArray[Any]
TOLD = 11  # radii of a curve that print shows


class Curve(NamedTuple):
    """Robust accuracy over all samples against the radius; radii increase, accuracy never does.

    Args:
        radii: float64 [R], in input units.
        accuracy: float64 [R], from 0 to 1; `accuracy[i]` is that at `radii[i]`.
    """

    radii: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @classmethod
    def from_distances(cls, distances: ArrayLike | Tensor, radii: Radii | None = None) -> Self:
        """Return the share of samples whose distance is above each radius.

        An example at a distance of exactly the radius, up to rounding (`Threat.edge`), lies in the ball and
        breaks the sample; for radii that hold up to their end there is `from_certificates`.

        Args:
            distances: [N], as the `distance` of a minimum-norm attack's result or row: 0 where the model is
                already wrong, inf where no example was found; NaN, without finite logits, counts as 0.
            radii: where to evaluate; None takes 0 and every finite distance: all steps.

        Returns:
            A `Curve`.

        Raises:
            InputError: there are no distances or negative ones, or radii are empty, negative or not finite.

        Example:
            >>> import fastadv as fa
            >>> fa.Curve.from_distances([0, 0.5, 2, float("inf")], radii=[0, 1, 3]).accuracy
            array([0.75, 0.5 , 0.25])
        """
        known = np.sort(check_distances(distances))
        steps = np.append(0.0, known[np.isfinite(known)])
        tried = np.unique(steps) if radii is None else check_radii(radii)
        return cls(tried, 1 - np.searchsorted(known, Threat.edge(tried), side="right") / len(known))

    @classmethod
    def from_certificates(
        cls, certified: ArrayLike | Tensor, correct: ArrayLike | Tensor, radii: Radii | None = None
    ) -> Self:
        """Return the certified accuracy: the share of samples that are correct and certified to each radius.

        Source:
            Cohen et al. 2019, "Certified Adversarial Robustness via Randomized Smoothing" (arXiv 1902.02918),
            section 4.
        """
        right = np.asarray(correct.cpu() if isinstance(correct, Tensor) else correct)
        proved = check_distances(certified, "certified")
        if right.dtype != np.bool_ or right.shape != proved.shape:
            raise InputError(
                f"correct: expected True or False for each of {len(proved)} samples, got {right.dtype} of "
                f"shape {list(right.shape)}"
            )
        known = np.sort(np.where(right, proved, -1.0))  # no slack: nothing is proved beyond the radius
        steps = np.append(0.0, known[np.isfinite(known) & (known >= 0)])
        tried = np.unique([steps, np.nextafter(steps, np.inf)]) if radii is None else check_radii(radii)
        return cls(tried, 1 - np.searchsorted(known, tried, side="left") / len(known))

    def contents(self) -> list[str | Cells]:
        """Return the table that is printed, of at most `TOLD` radii."""
        places = np.unique(np.linspace(0, len(self.radii) - 1, TOLD).round().astype(int))
        lines = [[f"{self.radii[k]:.3g}", percent(self.accuracy[k])] for k in places]
        left = f"{len(places)} of {len(self.radii):,} radii"
        return [[["radius", "accuracy"], *lines], *[left] * (len(places) < len(self.radii))]

    def __str__(self) -> str:
        return in_text(self.contents())

    def _repr_html_(self) -> str:
        return in_html(self.contents())

    def band(self, samples: int) -> tuple["Curve", "Curve"]:
        """Return the ends of the exact 95% interval at each radius."""
        ends = clopper_pearson(np.rint(self.accuracy * samples).astype(np.int64), samples)
        return Curve(self.radii, ends.low), Curve(self.radii, ends.high)

    def at(self, radius: float) -> float:
        """Return the accuracy at the largest radius of the curve that is not above this one.

        It is exact for the curve of all distances, and else an upper bound; of certificates ask
        `Certificates.accuracy`.
        """
        if not radius >= self.radii[0]:  # NaN is none either
            raise InputError(
                f"radius: expected at least {self.radii[0]:g}, where the curve begins, got {radius}"
            )
        end = radius if radius in self.radii else Threat.edge(radius)
        return float(self.accuracy[np.searchsorted(self.radii, end, side="right") - 1])


def check_distances(values: ArrayLike | Tensor, name: str = "distances") -> NDArray[np.float64]:
    """Return distances [N], NaN counted as 0; InputError unless there are some and none is negative."""
    distances = _numbers(values)
    distances = np.where(np.isnan(distances), 0.0, distances)
    if distances.ndim != 1 or distances.size == 0 or distances.min() < 0:
        raise InputError(
            f"{name}: expected one number of at least 0 for each of at least one sample, got {values!r}"
        )
    return distances


def check_radii(radii: Any) -> NDArray[np.float64]:
    """Return the radii in order, each once; InputError unless there are some, finite and not negative."""
    tried = np.unique(_numbers(radii))
    if tried.size == 0 or not np.isfinite(tried).all() or tried[0] < 0:
        raise InputError(
            f"radii: expected finite numbers of at least 0, got {radii!r}; pass for example [0, 0.1, 0.2]"
        )
    return tried


def _numbers(values: Any) -> NDArray[np.float64]:
    """Return an array of float64; an empty one where the values are no numbers."""
    try:
        plain = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
        return np.array(plain, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)


@knowing
def accuracy_against_radius(
    model: nn.Module | Prepared, dataset: Data,
    attack_for_radius: Callable[[float], Attack] | Attack | str | None = None, radii: Radii | None = None, *,
    minimum_norm: Attack | str | None = None, threat: Threat | None = None, batch_size: int = 256,
    limit: int | None = None, progress: Progress = False, freeze: bool | None = None,
    criterion: Criterion | None = None,
) -> Curve:  # fmt: skip
    """Measure robust accuracy at each radius, with one attack for each radius or one minimum-norm run.

    A sample broken at one radius counts as broken at every larger one, since its adversarial example lies in
    the larger ball too: the curve never rises, and each radius is tried only on the samples that are left. At
    radius 0 the accuracy is the clean one, and no attack is run. Samples without finite logits and the
    processes of a group are taken as in `evaluate`.

    Args:
        model: a module or Frozen; x [B, ...] to logits [B, K].
        dataset: as in `evaluate`.
        attack_for_radius: a function from a radius to an attack, for example `lambda r:
            functools.partial(fa.attacks.pgd, threat=fa.Linf(r), steps=40)`; or a name with arguments, as
            "pgd:steps=40,norm=l2". It may also be a minimum-norm attack of `fa.attacks`.
        radii: numbers >= 0 in input units; the curve has each once, in order. With a minimum-norm attack None
            gives the exact step function, with a step at every distance.
        minimum_norm: instead of `attack_for_radius`, an attack that minimizes the distance. It runs once, for
            all radii: `functools.partial(fa.attacks.ddn, threat=fa.L2(math.inf), steps=1000)`.
        threat: of names, and in which points of functions that take none are judged, such as `fa.L2(inf)`; at
            each radius.
        batch_size: samples attacked at once.
        limit: use this many samples only; None uses all.
        progress: as in `evaluate`.
        freeze: as in `evaluate`.
        criterion: as in `evaluate`.

    Returns:
        A `Curve`.

    Raises:
        InputError: radii are empty, negative or not finite, or beyond the radius of a minimum-norm attack;
            both kinds of attack are given, or neither; or one of the errors of `evaluate`.

    Example:
        >>> from functools import partial
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test")
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> attack = lambda radius: partial(fa.attacks.fgsm, threat=fa.Linf(radius))
        >>> fa.accuracy_against_radius(model, digits, attack, [0, 0.1, 0.2], limit=50).radii
        array([0. , 0.1, 0.2])
    """
    attack_for_radius, minimum_norm = (_by_name(one, threat) for one in (attack_for_radius, minimum_norm))
    if minimum_norm is None and minimizes(attack_for_radius):
        attack_for_radius, minimum_norm = None, attack_for_radius
    if minimum_norm is not None and not minimizes(minimum_norm) and name_of(minimum_norm) in ATTACKS:
        raise InputError(
            f"minimum_norm: expected an attack that minimizes the distance, got {name_of(minimum_norm)}; "
            "pass attack_for_radius, a function from a radius to an attack"
        )
    if threat is not None:
        check_threat(threat, maps=True)
    if minimum_norm is not None and attack_for_radius is None:
        tried = None if radii is None else check_radii(radii)
        ball = threat_of(minimum_norm) or threat
        reach = math.inf if ball is None else float(torch.as_tensor(ball.radius, device="cpu").min())
        if tried is not None and tried[-1] > Threat.edge(reach):
            raise InputError(
                f"radii: expected at most {reach:g}, up to which the attack searches, got {tried[-1]:g}; "
                "give it an infinite radius"
            )
        (row,) = evaluate(
            model, dataset, {"minimum_norm": minimum_norm}, threat=threat, batch_size=batch_size, limit=limit,
            indicators=False, progress=progress, freeze=freeze, criterion=criterion,
        ).rows  # fmt: skip
        _check_told(not any(remark.startswith(UNTOLD) for remark in row.remarks))
        _warn_of(row.flags)
        return Curve.from_distances(row.broken_at, tried)
    if not callable(attack_for_radius) or minimum_norm is not None:
        raise InputError(
            "attack_for_radius: expected either a function from a radius to an attack, or minimum_norm, got "
            + (f"{attack_for_radius or 'neither'}" if minimum_norm is None else "both")
        )
    with processes.agreement():
        tried = check_radii(radii)
        # names are for errors alone: two radii may print alike
        attacks = dict[str, Attack]()
        for radius in tried[tried > 0].tolist():
            ball = None if threat is None else threat.resized(radius)
            attacks |= named({f"radius {radius!r}": attack_for_radius(radius)}, ball)
        check_progress(progress)
        job = prepared(model, dataset, attacks, batch_size, limit, None, criterion, freeze=freeze)
        about = description(job) if processes.world() > 1 else {}
    if about:
        about |= {"data": describe_data(job.dataset), "radii": tried.tolist()}
        processes.check_alike({**about, "batch_size": batch_size, "limit": limit, **environment(job)})

    total = sample_count(job.dataset, limit) * len(attacks)
    claims = Counter[str]()

    def held(batch: Batch) -> tuple[int, int, list[int]]:
        """Return the samples of a batch, those without finite logits, and those right at each radius."""
        alive = batch.take(batch.correct)
        left = [len(alive.y)] if tried[0] == 0 else []
        for turn, (name, attack) in enumerate(job.attacks.items(), start=1):
            if len(alive.y):
                result = attempted(name, attack, alive, job, claims)
                _check_told(result.threat is not None)
                alive = alive.take(~result.success)
                _warn_of(getattr(result, "flags", ()))
            left.append(len(alive.y))
            # the batches before this one are done, or about to be in the other processes
            done = batch.number * batch_size * len(attacks) + turn * len(batch.y)
            tell(tick, f"{name}: {len(alive.y)} of {len(batch.y)} left", done, total)
        return len(batch.y), int(batch.failed.sum()), left

    with shown(progress, "measuring the curve") as tick:
        samples, failed, left = zip(*job.results(held), strict=True)
    job.check_finite(sum(samples), sum(failed))
    _warn_of(claim_flags(claims))
    return Curve(tried, np.sum(left, axis=0) / sum(samples))


def _by_name(attack: Any, threat: Threat | None) -> Any:
    """Return what text says: an attack for the minimum norm, or a function from a radius to an attack."""
    if not isinstance(attack, str):
        return attack
    plan = plan_of(attack)
    if plan.card.minimal:
        return plan.at(plan.radius) if threat is None else plan.run
    return plan.at if threat is None else lambda radius: plan.run


def _check_told(told: bool) -> None:
    if not told:
        raise InputError(
            "threat: expected that in which points of your function are judged, as it takes none, got None; "
            "pass threat=fa.L2(math.inf)"
        )


def _warn_of(flags: Sequence[str]) -> None:
    """Warn of claims and of an attack that could not run, of which a curve says nothing."""
    texts = [flag for flag in flags if flag.startswith(CLAIMS)]
    if any(flag.startswith(NOT_RUN) for flag in flags):
        texts.append("the model has no gradient, so that the attack broke nothing; use square")
    for text in texts:
        warn(f"accuracy_against_radius: {text}")
