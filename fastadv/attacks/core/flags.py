"""What casts doubt on a result: one table of flags, read when a search has ended."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastadv import losses, outputs
from fastadv.attacks.core.result import Status, failed_flags
from fastadv.labels import label_flags
from fastadv.text import threat_text

OUTSIDE = (
    "outside: {} of {} points lie outside of {} in [{:g}, {:g}] by more than rounding, and were put back to "
    "x; a threat's project() and an attack must keep them inside"
)
MEANT = "; did you mean"  # in a flag that asks, and is logged
DENIED = "denied: "  # how the flag begins that counts them


@dataclass(frozen=True, eq=False)
class Outcome:
    """The end of a `Trial`: the status of each sample, and the logits at x_adv."""

    trial: Any
    status: Tensor
    logits: Tensor
    loss: losses.Loss
    budget: bool
    denied: Tensor
    backwards: int


def _wide(out: Outcome) -> tuple[str, ...]:
    """Return the flag of a ball that holds every image of the box; it asks whether 8 means 8/255."""
    threat = out.trial.problem.threat
    if not out.budget or not threat.covers(out.trial.problem.x):
        return ()
    (low, high), radius = threat.box, threat.radius
    box = f"the box [{low:g}, {high:g}], so any image is in"
    if isinstance(radius, Tensor):
        return (f"radius: the balls of some samples cover {box} them",)
    bytes_meant = threat.norm == "linf" and (low, high) == (0, 1) and 1 < radius <= 255
    ask = f"{MEANT} Linf({radius:g} / 255)?" * bytes_meant
    return (f"radius: the ball {threat_text(threat)} covers {box} it{ask}",)


def _outside(out: Outcome) -> tuple[str, ...]:
    if not (outside := int(out.trial.outside.sum())):
        return ()
    threat = out.trial.problem.threat
    return (OUTSIDE.format(outside, len(out.status), threat_text(threat), *threat.box),)


def _denied(out: Outcome) -> tuple[str, ...]:
    return () if out.trial.draws else denied_flags(int(out.denied.sum()))


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


def _failed(out: Outcome) -> tuple[str, ...]:
    unusable = out.trial.unusable
    met = (out.status == Status.FAILED) & ~unusable
    return failed_flags(int(unusable.sum()), int(met.sum()), len(out.status))


def _labels(out: Outcome) -> tuple[str, ...]:
    trial, task = out.trial, out.trial.problem
    if not trial.some_already or task.targets is not None or bool(trial.unusable.any()):
        return ()
    classes = trial.clean.shape[1] * (task.outputs == "classes")
    return label_flags(int(trial.attacked.sum()), len(out.status), classes)


def _bounded(out: Outcome) -> tuple[str, ...]:
    trial, task = out.trial, out.trial.problem
    # of an attack that takes gradients
    logits = task.criterion.of_single(trial.clean, task.y) if out.backwards else None
    kind = None if logits is None else outputs.squashed(logits)
    return (outputs.flag(kind),) if kind else ()


def _soft(out: Outcome) -> tuple[str, ...]:
    task, held = out.trial.problem, out.status == Status.HELD
    counts = out.loss == "ce" and out.budget and task.targets is None
    soft = counts and outputs.are_soft(out.logits[held], task.y[held])
    return (outputs.SOFT_LOGITS,) * soft


FLAGS: tuple[Callable[[Outcome], tuple[str, ...]], ...] = (
    _wide, _outside, _denied, _failed, _labels, _bounded, _soft,
)  # fmt: skip


def flags_of(out: Outcome) -> tuple[str, ...]:
    return tuple(text for flags in FLAGS for text in flags(out))
