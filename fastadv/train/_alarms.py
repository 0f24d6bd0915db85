"""What goes wrong in adversarial training, noticed in the reports."""

import math
from collections.abc import Sequence

from fastadv.train.report import EpochReport, comparable

CATASTROPHIC, ROBUST = "catastrophic overfitting", "robust overfitting"
# a fall counts after so many epochs
LASTING = 3
# a smaller loss of accuracy is no fall
LEAST = 0.02
# the recipe's own examples are classified from this accuracy on: above chance with ten classes
CLASSIFIED = 0.25
# robust accuracy below this share of the accuracy on the recipe's own examples counts as zero
MASKED = 0.02

_STRONGER = (
    "resume from the best weights with a smaller step size or radius, with n-fgsm, or with several steps"
)
_REGULAR = (
    "keep the weights of that epoch (patience, on_alarm), "
    "or train with ema, AWP, label smoothing or more data"
)


def alarm(past: Sequence[EpochReport], tested: int) -> str | None:
    """Describe what the last report shows, each kind once in a run: its name, what was seen, what to do."""
    # a difference that chance explains among the images `tested` is no fall
    # Wong, Rice, Kolter 2020 (arXiv 2001.03994), section 5.2; Rice, Wong, Kolter 2020 (arXiv 2002.11569)
    said = {report.alarm.partition(":")[0] for report in past if report.alarm}
    *before, now = comparable(past) or past
    if not before or now.lowest < 0 or CATASTROPHIC in said:
        return None
    text = _collapsed(before, now, tested) or _never_rose(before[-1], now)
    if text:
        return f"{CATASTROPHIC}: {text}; {_STRONGER}"
    text = _fell(before, now, tested) if ROBUST not in said else None
    return f"{ROBUST}: {text}; {_REGULAR}" if text else None


def _collapsed(before: Sequence[EpochReport], now: EpochReport, tested: int) -> str | None:
    best = max(before, key=lambda report: report.lowest)
    chance = 3 * _deviation(best.lowest, now.lowest, tested)
    if now.lowest >= best.lowest / 2 or best.lowest - now.lowest <= chance:
        return None
    fall = _fall(best.epoch, best.lowest, now.lowest)
    if best.own_accuracy is not None and now.own_accuracy is not None:
        own = f"that on the recipe's own examples rose from {best.own_accuracy:.1%} to {now.own_accuracy:.1%}"
        return f"{fall}, while {own}" if now.own_accuracy >= best.own_accuracy else None
    loss = f"the recipe's own loss fell from {best.loss:.3g} to {now.loss:.3g}"
    return f"{fall}, while {loss}" if now.loss <= best.loss else None


def _never_rose(before: EpochReport, now: EpochReport) -> str | None:
    own = [report.own_accuracy or 0.0 for report in (before, now)]
    if min(own) < CLASSIFIED or before.lowest >= MASKED * own[0] or now.lowest >= MASKED * own[1]:
        return None
    return f"accuracy under attack is {now.lowest:.1%}, that on the recipe's own examples {own[1]:.1%}"


def _fell(before: Sequence[EpochReport], now: EpochReport, tested: int) -> str | None:
    best = max(before, key=lambda report: report.judged)
    last = [*before, now][-LASTING:]
    least = max(LEAST, 2 * _deviation(best.judged, now.judged, tested))
    if len(last) < LASTING or best in last or now.loss >= best.loss:
        return None
    if any(best.judged - report.judged <= least for report in last):
        return None
    return f"{_fall(best.epoch, best.judged, now.judged)}, while the training loss went on falling"


def _fall(epoch: int, best: float, now: float) -> str:
    return f"accuracy under attack fell from {best:.1%} in epoch {epoch} to {now:.1%}"


def _deviation(first: float, second: float, tested: int) -> float:
    """Return the standard deviation of the difference of two shares of so many images."""
    return math.sqrt((first * (1 - first) + second * (1 - second)) / tested)
