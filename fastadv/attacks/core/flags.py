"""What casts doubt on a result: flags, made of the end of a search when they are read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastadv import losses, outputs
from fastadv.attacks.core.result import Status, failed_flags
from fastadv.labels import label_flags
from fastadv.text import threat_text
from fastadv.threat import Threat

OUTSIDE = (
    "outside: {} of {} points lie outside of {} in [{:g}, {:g}] by more than rounding, and were put back to "
    "x; a threat's project() and an attack must keep them inside"
)
DENIED = "denied: "  # how the flag begins that counts them


@dataclass(frozen=True, eq=False)
class Evidence:
    """The end of a search: what its flags are made of, and neither the model nor the search.

    Attributes:
        seen: flags of what was seen in the call.
        x_adv: [B, ...], in the `threat` of the search.
        budget: whether the strongest point was looked for, not the nearest success.
        targeted: whether a success is one of the targets.
        status: int64 [B] of `Status`.
        success: bool [B], and so are all below: what the last verdict says of x_adv.
        claimed: what the search took for a success.
        attacked: x was right.
        unusable: the logits at x are not finite.
        outside: the point of the search was in the threat by no rounding.
        draws: whether the model answers x otherwise in another pass.
        classes: that a label may be of; 0 where y are no classes.
        single: [N, K], the logits at x of single decisions, if gradients were taken.
        raised: the logits at x_adv and y, if cross-entropy was raised.
    """

    seen: tuple[str, ...]
    x_adv: Tensor
    threat: Threat
    budget: bool
    targeted: bool
    status: Tensor
    success: Tensor
    claimed: Tensor
    attacked: Tensor
    unusable: Tensor
    outside: Tensor
    draws: bool
    classes: int
    single: Tensor | None
    raised: tuple[Tensor, Tensor] | None

    @classmethod
    def of(
        cls, trial: Any, x_adv: Tensor, status: Tensor, success: Tensor, claimed: Tensor, logits: Tensor,
        loss: losses.Loss, budget: bool, backwards: int,
    ) -> "Evidence":  # fmt: skip
        """Return the end of a `Trial` with these logits at x_adv."""
        task, targeted = trial.problem, trial.problem.targets is not None
        raised = loss == "ce" and budget and not targeted
        return cls(
            seen=trial.flags,
            x_adv=x_adv,
            threat=task.threat,
            budget=budget,
            targeted=targeted,
            status=status,
            success=success,
            claimed=claimed,
            attacked=trial.attacked,
            unusable=trial.unusable,
            outside=trial.outside,
            draws=trial.draws,
            classes=logits.shape[1] * (task.outputs == "classes"),
            single=task.criterion.of_single(trial.clean, task.y) if backwards else None,
            raised=(logits, task.y.clone()) if raised else None,
        )

    def flags(self) -> tuple[str, ...]:
        """Return the flags, in their order."""
        unusable = int(self.unusable.sum())
        failed = int(((self.status == Status.FAILED) & ~self.unusable).sum())
        flags = (
            *self.seen,
            *self.wide(),
            *self._outside(),
            *self._denied(),
            *failed_flags(unusable, failed, len(self.status)),
            *(() if self.targeted or unusable else self._labels()),
            *self._bounded(),
            *self._soft(),
        )
        return tuple(dict.fromkeys(flags))

    def wide(self) -> tuple[str, ...]:
        """Return the flag of a ball that holds every image of the box; it asks whether 8 means 8/255."""
        threat = self.threat
        if not self.budget or not threat.covers(self.x_adv):
            return ()
        (low, high), radius = threat.box, threat.radius
        box = f"the box [{low:g}, {high:g}], so any image is in"
        if isinstance(radius, Tensor):
            return (f"radius: the balls of some samples cover {box} them",)
        return (f"radius: the ball {threat_text(threat)} covers {box} it{bytes_meant(threat)}",)

    def _outside(self) -> tuple[str, ...]:
        threat, outside = self.threat, int(self.outside.sum())
        text = OUTSIDE.format(outside, len(self.status), threat_text(threat), *threat.box)
        return (text,) * bool(outside)

    def _denied(self) -> tuple[str, ...]:
        already = ~(self.attacked | self.unusable)
        denied = (self.claimed | already) & ~self.success & ~self.outside
        return () if self.draws else denied_flags(int(denied.sum()))

    def _labels(self) -> tuple[str, ...]:
        count = len(self.status)
        return label_flags(int(self.attacked.sum()), count, self.classes) if count else ()

    def _bounded(self) -> tuple[str, ...]:
        kind = None if self.single is None else outputs.squashed(self.single)
        return (outputs.flag(kind),) if kind else ()

    def _soft(self) -> tuple[str, ...]:
        held = self.status == Status.HELD
        soft = self.raised is not None and outputs.are_soft(*(values[held] for values in self.raised))
        return (outputs.SOFT_LOGITS,) * soft


def bytes_meant(threat: Threat) -> str:
    """Return the question whether a radius beyond the box [0, 1] is meant in levels of 255; else ""."""
    radius = threat.radius
    meant = threat.norm == "linf" and threat.box == (0, 1) and not isinstance(radius, Tensor)
    return f"; did you mean Linf({radius:g} / 255)?" if meant and 1 < radius <= 255 else ""


def denied_flags(count: int) -> tuple[str, ...]:
    """Return the flag of so many successes of searches that the last verdict denies, where there are any."""
    text = (
        f"{DENIED}{count} of the successes that a search saw are none in its last pass, and do not count; "
        "the model draws, mixes rows, or its search copy rounds"
    )
    return (text,) * bool(count)


def denied_in(flags: Iterable[str]) -> int:
    """Return how many successes flags of several searches say that were denied."""
    return sum(int(flag.split()[1]) for flag in flags if flag.startswith(DENIED))
