"""What every attack returns, and which of its samples count as robust."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import nan
from typing import Any

from torch import Tensor

from fastadv.attacks.core.criterion import ANY_WRONG, Goal
from fastadv.intervals import Interval, clopper_pearson, median
from fastadv.text import Cells, Printable, ends, number, percent, several, threat_text
from fastadv.threat import Threat

NOT_FINITE = (
    "model: expected finite logits, got NaN or infinity for every sample; check its weights and the scale of "
    "x; give a class that is never predicted the logit -1e30, not -inf"
)
FAILED = "failed: "  # how flags begin that count samples
ZERO_SHARE = 0.05  # of the samples, which may have no gradient without a sign of masking
LEAD = "Not a robust accuracy: {}."
DENYING = ("the model gives two answers",)  # how flags begin that deny a robust accuracy


class Status(IntEnum):
    """The outcome for one sample.

    ALREADY_WRONG where x itself is a success and was left alone, BROKEN where the attack found one, HELD
    where it found none, FAILED where it found none and met a logit or gradient not finite.
    """

    ALREADY_WRONG = 0
    BROKEN = 1
    HELD = 2
    FAILED = 3


def classified(logits: Tensor, y: Tensor) -> Tensor:
    """Return bool [B], which logits [B, K] classify correctly; such as are not finite do not."""
    return logits.isfinite().all(1) & (logits.argmax(1) == y)


def failed_flags(unusable: int, met: int, count: int) -> tuple[str, ...]:
    """Return flags that say of how many samples of `count` the accuracy rests on no attack."""
    if not (unusable or met):
        return ()
    flags = {
        f"{FAILED}the model's logits are not finite for {unusable} of {several(count, 'sample')}; "
        "they count as not correct and are not attacked": unusable,
        f"{FAILED}the attack met NaN or infinity on {met} of {several(count, 'sample')} that it did not "
        "break; the accuracy may be too high": met,
    }
    return tuple(flag for flag, samples in flags.items() if samples)


class Flags:
    """The field `flags`: texts, or a function of the result that makes them when they are first read."""

    def __get__(self, result: "AttackResult | None", owner: type) -> tuple[str, ...]:
        if result is None:  # as a dataclass asks for the default
            return ()
        flags: Any = vars(result)["flags"]
        if callable(flags):
            flags = vars(result)["flags"] = flags(result)
        return flags  # type: ignore[no-any-return]

    def __set__(
        self, result: "AttackResult", flags: "tuple[str, ...] | Callable[[AttackResult], tuple[str, ...]]"
    ) -> None:
        vars(result)["flags"] = flags


@dataclass(eq=False, repr=False)
class AttackResult(Printable):
    """The outcome of an attack on a batch of B samples; `print(result)` tells what to report of it.

    A sample counts as robust if it is classified correctly and the attack did not break it. Clean logits that
    are not finite are no correct classification. A sample that holds though the attack met a NaN or infinity
    counts as robust, and a flag says how many do.

    Attributes:
        x_adv: like x, in float32 at least; always finite, inside the box and the ball. Where x was already
            wrong, x itself. Where nothing was broken, the strongest point for budget attacks, and x itself
            for minimum-norm ones. A pass of all of x_adv at once is what decided.
        success: bool [B]; the model as given, in eval mode, classifies x_adv as the attack wants.
        status: int64 [B] of `Status`: ALREADY_WRONG where x itself is a success and was left alone, BROKEN
            where the attack found a success, HELD where it found none, FAILED where it found none and a logit
            or gradient was not finite.
        loss: [B]; the attack's loss at x_adv.
        distance: [B]; from x to x_adv in the threat's norm where BROKEN, 0 where ALREADY_WRONG, else inf.
        forwards: samples passed forward, through the model or its copy for the search.
        backwards: samples for which an input gradient was computed.
        zero_gradient: bool [B]; every gradient of the search was exactly zero, so that none could lead it.
            The model is flat there, or it masks its gradients.
        unfinished: [B]; the share of the rise of the loss that came with the last tenth of the gradients, at
            most ten; 0 where it did not rise, NaN where that is not known.
        cycled: bool [B]; the steps came back to a point where they had been, so the others, which would have
            repeated themselves, were left out. None where that is not known.
        threat: in which the attack searched; None where an attack of your own does not tell.
        flags: warnings that cast doubt on the result; empty where nothing does. One of them counts successes
            of the search that the last pass denies, as of a model that is randomized or mixes rows. They are
            made when they are first read or printed.
        correct: bool [B]; the model classifies x as y, or x is right by a criterion of your own; by finite
            logits. By default, where an attack does not tell, the samples that are HELD or BROKEN.
        attack: the name of the attack, as it is printed.
        parameters: of a `fastadv.Through`, what x_adv are made of; `distance` is then that of these. None
            for a ball.
        goal: what a success had to meet, its `criterion`; to reach, its `targets`; and where x was allowed to
            change, its `mask`. The last two are None for anything but y, and for everywhere.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> out = fa.attacks.bim(model, x, y, fa.Linf(0.3))
        >>> print(out)
        bim, Linf 0.3: clean 100.0%, robust 0.0% (95%: 0 to 37)
        >>> out.robust_accuracy
        0.0
    """

    x_adv: Tensor
    success: Tensor
    status: Tensor
    loss: Tensor
    distance: Tensor
    forwards: int
    backwards: int
    zero_gradient: Tensor
    flags: tuple[str, ...] = Flags()  # type: ignore[assignment]
    unfinished: Tensor | None = None
    cycled: Tensor | None = None
    threat: Threat | None = None
    correct: Tensor = None  # type: ignore[assignment]
    attack: str = ""
    parameters: Tensor | None = None
    goal: Goal = ANY_WRONG

    def __post_init__(self) -> None:
        if self.correct is None:
            self.correct = (self.status == Status.HELD) | (self.status == Status.BROKEN)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is saved: flags as texts, which torch.load takes by default."""
        return vars(self) | {"flags": self.flags}

    @property
    def held(self) -> Tensor:
        return self.correct & ~self.success

    @property
    def clean_accuracy(self) -> float:
        """Share of all samples that are classified correctly without an attack."""
        return float(self.correct.double().mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of all samples that are classified correctly without the attack and that it did not break."""
        return float(self.held.double().mean())

    @property
    def lead(self) -> str:
        """What comes before a robust accuracy that signs of masking deny; "" where there are none."""
        flat, right = int((self.held & self.zero_gradient).sum()), int(self.correct.sum())
        masked = clopper_pearson(flat, max(right, 1)).low > ZERO_SHARE
        reasons = [f"every gradient was zero on {flat} of {several(right, 'sample')}"] * masked
        reasons += [flag.partition(";")[0] for flag in self.flags if flag.startswith(DENYING)]
        return "".join(map(LEAD.format, reasons[:1]))

    @property
    def accuracy_interval(self) -> Interval:
        """The exact 95% interval of the robust accuracy (Clopper and Pearson)."""
        if not len(self.held):
            return Interval(nan, nan)
        return clopper_pearson(int(self.held.sum()), len(self.held))

    def __repr__(self) -> str:
        number = Counter(self.status.tolist())
        parts = ", ".join(f"{number[s]} {s.name.lower().replace('_', ' ')}" for s in Status)
        cycled = 0 if self.cycled is None else int(self.cycled.sum())
        notes = (f"{cycled} left in a cycle",) * bool(cycled) + self.flags
        return (
            f"{type(self).__name__}({several(len(self.status), 'sample')}: {parts}; "
            f"{self.forwards} forwards, {self.backwards} backwards{''.join(f'; {note}' for note in notes)})"
        )

    def contents(self) -> list[str | Cells]:
        return ["; ".join(self.sentences()), *self.flags]

    def sentences(self, name: str = "") -> list[str]:
        """Return the parts of one line that reports the attack, the accuracies first."""
        name, count = name or self.attack or "attack", len(self.status)
        if not count:
            return [f"{name}: no samples"]
        clean = f"clean {percent(self.clean_accuracy)}"
        number_of = Counter(self.status.tolist())
        if self.threat is None or not self.goal.whole:
            broken, already = number_of[Status.BROKEN], number_of[Status.ALREADY_WRONG]
            attacked = several(count - already, "sample")
            return [f"{name}: {clean}, {broken} of {attacked} led to what was asked for"]
        about = f"{name}, {threat_text(self.threat).replace('∞', 'inf')}: {clean}"
        if self.threat.finite:
            robust, interval = percent(self.robust_accuracy), f"(95%: {ends(*self.accuracy_interval)})"
            plain = f"{about}, robust {robust} {interval}"
            return [f"{self.lead} {about}, robust at most {robust}" if self.lead else plain]
        finite = self.correct | (self.status != Status.FAILED)
        middle = number(median(self.distance[finite].double().cpu().numpy())) if bool(finite.any()) else "-"
        right = int(self.correct.sum())
        return [f"{about}, broken {number_of[Status.BROKEN]} of {right}, median distance {middle}"]
