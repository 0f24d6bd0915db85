"""Outputs that say little to a gradient: squashed by a head at the end of a model, or almost equal.

A softmax, a sigmoid or a tanh leaves the decision as it was. But at its ends an output falls out of the
gradient, and a search follows the outputs in the middle, whatever their classes. Clean logits tell: honest
ones have few values at the end of their range.
"""

from torch import Tensor

ROWS = 8  # of fewer nothing is said
MANY, CLASSES = 32, 5  # of fewer nothing but of known ends
HEADS = {"sigmoid": (0.0, 1.0), "softsign": (-1.0, 1.0)}
# what is near an end, of the width, and the share of outputs that are: where ends are known, and where not
NEAR_KNOWN, SHARE_KNOWN, NEAR_ANY, SHARE_ANY = 0.1, 0.25, 0.02, 0.12
STEEP = 0.995  # what a softsign reaches from 199 on, a tanh from 3
SUM = 0.01  # how far the sum of probabilities is from 1, in half precision, too
WORDS = "outputs crowd at their ends, where gradients vanish"
ADVICE = "give fa.models.logits(model, link), or attack the logits themselves"


def squashed(logits: Tensor) -> str | None:
    """Return what squashes clean logits [N, K]: a link of `fa.models.logits`, "clamp" for others, or None."""
    rows = logits[logits.isfinite().all(1)].double()
    if len(rows) < ROWS or (low := float(rows.min())) == (high := float(rows.max())):
        return None
    if low >= 0 and rows.shape[1] > 1 and bool(((rows.sum(1) - 1).abs() <= SUM).all()):
        return "softmax"
    for kind, (start, end) in HEADS.items():
        if start <= low and high <= end and _near(rows, start, end, NEAR_KNOWN) >= SHARE_KNOWN:
            return "tanh" if low < 0 and max(-low, high) > STEEP else kind
    rows = rows[:, rows.amin(0) < rows.amax(0)]
    if len(rows) < MANY or rows.shape[1] < CLASSES:
        return None
    # the largest of a row may be near an end, as that of log probabilities
    low, high = (float(end) for end in rows.aminmax())
    others = rows.sort(1).values[:, :-1]
    return "clamp" if _near(others, low, high, NEAR_ANY) >= SHARE_ANY else None


def _near(rows: Tensor, low: float, high: float, share: float) -> float:
    """Return the share of values that are near the ends of [low, high], by a share of its width."""
    by = share * (high - low)
    return float(((rows <= low + by) | (rows >= high - by)).double().mean())


def flag(kind: str) -> str:
    """Return the flag of outputs that a head of this kind squashes, with the line that mends it."""
    mend = "return the logits themselves" if kind == "clamp" else ADVICE.replace("link", repr(kind))
    return f"bounded_outputs: {WORDS}, as those of a {kind}; {mend}"


SOFT_LOGITS = (
    "soft_logits: cross-entropy is weak on this model, whose logits are almost equal; use loss='ce_sharp'"
)
# the median share that the largest other class has of the probability of all others. Measured with PGD-40 on
# ten classes: from 0.64 the margin breaks no more, at 0.32 it breaks 4 to 9% more samples, at 0.13 10 to 16%
SHARE = 0.4


def are_soft(logits: Tensor, y: Tensor) -> bool:
    """Return whether most of what cross-entropy raises is not the largest other class."""
    others = logits.double().scatter(1, y[:, None], -float("inf"))
    share = others.softmax(1).amax(1)
    share = share[share.isfinite()]
    return bool(len(share)) and bool(share.median() < SHARE)
