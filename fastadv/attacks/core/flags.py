"""What casts doubt on a result: flags, made of the end of a search when they are read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastadv import losses, outputs
from fastadv.attacks.core.result import AttackResult, Status, failed_flags
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
    """What flags are made of besides the result; it holds neither the model nor the search.

    Attributes:
        seen: flags of what was seen in the call.
        threat: of the search; its radius is infinite where the nearest success was looked for.
        budget: whether the strongest point was looked for instead.
        claimed: bool [B], and so are the next: what the search took for a success.
        attacked: x was right.
        unusable: the logits at x are not finite.
        outside: rounding does not account for how far the point of the search lay outside of the threat.
        draws: whether the model answers x otherwise in another pass.
        classes: that a label may be of; 0 where y are no classes.
        single: [N, K], the logits at x of single decisions, if gradients were taken.
        raised: the logits at x_adv and y, if cross-entropy was raised.
    """

    seen: tuple[str, ...]
    threat: Threat
    budget: bool
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
        cls, trial: Any, claimed: Tensor, logits: Tensor, loss: losses.Loss, budget: bool, backwards: int
    ) -> "Evidence":
        """Return the end of a `Trial` with these logits at x_adv."""
        task, made = trial.problem, (trial.attacked, trial.unusable, trial.outside, trial.draws)
        classes = logits.shape[1] * (task.criterion.outputs == "classes")
        single = task.criterion.of_single(trial.clean, task.y) if backwards else None
        soft = loss == "ce" and budget and task.targets is None
        # labels may change after the call
        raised = (logits, task.y.clone()) if soft else None
        return cls(trial.flags, task.threat, budget, claimed, *made, classes, single, raised)

    def flags(self, out: AttackResult) -> tuple[str, ...]:
        """Return the flags of a result, in their order."""
        unusable = int(self.unusable.sum())
        failed = int(((out.status == Status.FAILED) & ~self.unusable).sum())
        told = (
            *self.seen,
            *self.wide(out.x_adv),
            *self._outside(),
            *self._denied(out.success),
            *failed_flags(unusable, failed, len(out.status)),
            *(() if unusable or out.goal.targets is not None else self._labels()),
            *self._bounded(),
            *self._soft(out.status == Status.HELD),
        )
        return tuple(dict.fromkeys(told))

    def wide(self, x_adv: Tensor) -> tuple[str, ...]:
        """Return the flag of a ball that holds every image of the box; it asks whether 8 means 8/255."""
        threat = self.threat
        if not self.budget or not threat.covers(x_adv):
            return ()
        (low, high), radius = threat.box, threat.radius
        box = f"the box [{low:g}, {high:g}], so any image is in"
        if isinstance(radius, Tensor):
            return (f"radius: the balls of some samples cover {box} them",)
        return (f"radius: the ball {threat_text(threat)} covers {box} it{bytes_meant(threat)}",)

    def _outside(self) -> tuple[str, ...]:
        threat, outside = self.threat, int(self.outside.sum())
        text = OUTSIDE.format(outside, len(self.outside), threat_text(threat), *threat.box)
        return (text,) * bool(outside)

    def _denied(self, success: Tensor) -> tuple[str, ...]:
        already = ~(self.attacked | self.unusable)
        denied = (self.claimed | already) & ~success & ~self.outside
        return () if self.draws else denied_flags(int(denied.sum()))

    def _labels(self) -> tuple[str, ...]:
        count = len(self.attacked)
        return label_flags(int(self.attacked.sum()), count, self.classes) if count else ()

    def _bounded(self) -> tuple[str, ...]:
        kind = None if self.single is None else outputs.squashed(self.single)
        return (outputs.flag(kind),) if kind else ()

    def _soft(self, held: Tensor) -> tuple[str, ...]:
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
