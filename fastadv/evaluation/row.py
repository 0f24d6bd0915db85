"""The result of one attack over all samples: figures with named denominators."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from fastadv.evaluation.draws import Draws
from fastadv.evaluation.samples import Components
from fastadv.intervals import Interval, bootstrap, clopper_pearson, median
from fastadv.threat import Threat

# figures of a row, in the order in which they are told
SHARES = ("robust_accuracy", "success_rate", "median_distance", "mean_distance")
COUNTS = ("failed", "unmoved", "forwards", "backwards", "seconds")


@dataclass(frozen=True)
class Row:
    """The results of one attack: for each of the n samples, whether it was broken and at which distance.

    Samples counted in `failed` and `unmoved` are not broken, but nothing shows that they are robust: the
    robust accuracy, which includes them, may be too high by as many.

    Attributes:
        name: of the attack.
        correct: bool [n]; the model classifies the clean sample correctly.
        broken: bool [n]; it does, and the attack changed that.
        distance: float64 [n], of the adversarial example where broken, 0 where the model was already wrong,
            inf where the attack did not succeed, NaN where the model's logits for the clean sample are not
            finite.
        failed: correct samples that the attack did not break because it met numbers that are not finite.
        unmoved: correct samples that it did not break because every gradient was zero: masked, or flat.
        forwards: samples passed forward.
        backwards: samples for which an input gradient was computed.
        seconds: elapsed time of the attack, on all samples.
        minimum_norm: whether the attack minimizes the distance, as far as that is known: it is one of
            `fastadv.attacks`.
        flags: warnings that cast doubt on the result, as in `fastadv.attacks.AttackResult`.
        remarks: notes of the attack on what it did and left out.
        components: which component broke each sample, where the attack consists of others.
        draws: the model's draws at each x_adv, where there were several.
        threat: the ball and box of the attack, with one radius for all samples; None where that is not known.
    """

    name: str
    correct: Tensor = field(repr=False)
    broken: Tensor = field(repr=False)
    distance: Tensor = field(repr=False)
    failed: int
    unmoved: int
    forwards: int
    backwards: int
    seconds: float
    minimum_norm: bool = False
    flags: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    components: Components | None = field(default=None, repr=False)
    draws: Draws | None = field(default=None, repr=False)
    threat: Threat | None = field(default=None, repr=False)

    @property
    def robust_accuracy(self) -> float:
        """Share of ALL samples that are classified correctly without the attack and under it."""
        return (self.correct & ~self.broken).double().mean().item()

    @property
    def unlimited(self) -> bool:
        """Whether the attack had an infinite radius, at which an accuracy says nothing."""
        return self.threat is not None and not self.threat.finite

    @property
    def success_rate(self) -> float:
        """Share of the INITIALLY CORRECT samples that the attack broke; NaN where there are none."""
        right = int(self.correct.sum())
        return int(self.broken.sum()) / right if right else math.nan

    @property
    def median_distance(self) -> float:
        """Median over ALL samples with finite logits: 0 for those already wrong, inf for those not broken."""
        return median(self.distance[~self.distance.isnan()].numpy())

    @property
    def median_interval(self) -> Interval:
        """The 95% bootstrap interval of the median distance; its ends may be infinite."""
        return bootstrap(self.distance[~self.distance.isnan()].numpy(), median)

    @property
    def accuracy_interval(self) -> Interval:
        """The exact 95% interval of the robust accuracy (Clopper and Pearson)."""
        return clopper_pearson(int((self.correct & ~self.broken).sum()), len(self.correct))

    @property
    def mean_distance(self) -> float:
        """Mean over the BROKEN samples; NaN where there are none."""
        return self.distance[self.broken].mean().item()

    def figures(self) -> dict[str, float]:
        """Return the figures that say something, by name."""
        kept = {name: getattr(self, name) for name in SHARES}
        dropped = ["robust_accuracy"] * self.unlimited
        if not (self.minimum_norm or self.unlimited):
            dropped += ["median_distance", "mean_distance"]
        return kept | dict.fromkeys(dropped, math.nan)
