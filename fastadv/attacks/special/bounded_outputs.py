"""Outputs that were squashed into an interval, which bends every loss of their differences.

A sigmoid or tanh of each logit leaves the decision as it was. But where it saturates, an output falls out of
the gradient, and a search follows the outputs in the middle of the interval, whatever their classes.
In [0, 1] and [-1, 1] the loss is that of the logits before a sigmoid or tanh. In another interval, whose ends
are not known, it is the margin, of which both outputs count alike: no squashing changes the direction of an
output's own gradient. A row's own outputs tell the interval, where some of them crowd at its ends. A result
has a flag wherever gradients fall off towards ends, since not all of that can be undone.
"""

from weakref import WeakSet

import torch
from torch import Tensor

from fastadv import losses
from fastadv._waiting import waits
from fastadv.engine import Prepared
from fastadv.errors import NoGradientError
from fastadv.ops._rows import like

LOSSES = ("ce_sharp", "margin")  # the defaults; those that papers chose stay as they are
UNIT, SYMMETRIC, UNKNOWN = 1, 2, 3  # [0, 1], [-1, 1], another interval
FEWEST = 5  # classes, of fewer a crowd is chance
END, CROWD, SPAN = 0.1, 0.5, 0.2  # of a known interval: what is near an end; the share of outputs that must
# be there, and the smaller one where some are at either end
MOST, NEAR = 0.7, 0.02  # of another: the share of outputs at one end, and of the range what is near it
FAR = 20  # times the range of the three largest: what is farther below is never predicted
LEAST = 1e-7  # the distance from an end that float32 still tells
# shares of the way from a sample to another; outputs of each whose gradients are compared there
BLENDS, OUTPUTS = (0.0, 0.25, 0.5, 0.75), 10
# the closeness to an end of a range; the mean share of the outputs of a class that makes a look due, and
# that of all that the sign asks for; how small their gradients are
CLOSE, DUE, DUE_ALL, SMALL = 0.05, 0.07, 0.03, 0.25
ONE = 1e-5  # how far a sum of probabilities is from 1 in float32, as in AutoAttack
FEW, LIMIT = 16, 0.6  # rows, of fewer nothing is said; the sign is above the limit
WORDS = "outputs are squashed into an interval, at whose ends gradients fall off"
ADVICE = "return the logits: attack the model without the sigmoid, tanh or clamp at its end"
FLAG = f"bounded_outputs: {WORDS}; {ADVICE}"


def may_crowd(logits: Tensor) -> Tensor:
    """Return bool [], whether some rows may be such: a look of a few microseconds, which reads nothing."""
    if logits.shape[1] < FEWEST:
        return logits.new_zeros((), dtype=torch.bool)
    low, high, at_an_end = _ends(logits.sort(1).values)
    return torch.any(at_an_end | (torch.maximum(high, -low) <= 1))


def bounded(logits: Tensor) -> Tensor | None:
    """Return int64 [B], in which interval a row's outputs crowd at an end, 0 for none; None for no row."""
    if logits.shape[1] < FEWEST:
        return None
    rows = logits.sort(1).values
    unit, symmetric, unknown = _crowded(rows, 0), _crowded(rows, -1), _ends(rows)[2]
    if not bool((unit | symmetric | unknown).any()):
        return None
    kind = torch.where(unknown, UNKNOWN, 0).masked_fill(symmetric, SYMMETRIC)
    return kind.masked_fill(unit, UNIT)


def _crowded(rows: Tensor, start: int) -> Tensor:
    """Return bool [B], whether a sorted row lies in [start, 1] and crowds at its ends."""
    low, high = rows[:, 0], rows[:, -1]
    near = ((rows <= start + END) | (rows >= 1 - END)).sum(1)
    spans = (low <= start + END) & (high >= 1 - END) & (near >= max(SPAN * rows.shape[1], 3))
    return (start <= low) & (high <= 1) & ((near >= CROWD * rows.shape[1]) | spans)


_straight = WeakSet[Prepared]()  # whose first outputs did not crowd


def met_bounded(classifier: Prepared, logits: Tensor) -> Tensor | None:
    """Return `bounded` of a batch in training. Reading waits for a GPU: there the first batch decides."""
    if classifier in _straight:
        return None
    kind = bounded(logits) if bool(may_crowd(logits)) else None
    if kind is None and waits(logits.device):
        _straight.add(classifier)
    return kind


def _ends(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least and the largest of each sorted row, and whether most of it is near one of them."""
    low, high = rows[:, :1], rows[:, -1:]
    # outputs far below those that decide, or that share the least one, are of classes never predicted
    kept = rows >= high - FAR * (high - rows[:, -3:-2])
    least = rows.where(kept, torch.inf).amin(1, keepdim=True)
    kept &= (rows > least) | ((rows == least).sum(1, keepdim=True) == 1)
    least, count = rows.where(kept, torch.inf).amin(1, keepdim=True), kept.sum(1)
    near, most = NEAR * (high - least), torch.ceil(MOST * (count - 1)) + 1
    ends = (kept & (rows <= least + near)).sum(1), (rows >= high - near).sum(1)
    return low[:, 0], high[:, 0], (torch.maximum(*ends) >= most) & (count >= FEWEST)


def inverse(logits: Tensor, interval: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits before a sigmoid or tanh of rows in [0, 1] or [-1, 1], and their derivatives."""
    low = torch.where(interval == SYMMETRIC, -1.0, 0.0).to(logits)[:, None]
    share = (logits - low) / (1 - low)
    known = (interval[:, None] % UNKNOWN > 0) & ((share >= 0) & (share <= 1)).all(1, keepdim=True)
    share = share.clamp(LEAST, 1 - LEAST)
    before, steep = share.logit() / (1 - low), 1 / (share * (1 - share) * (1 - low).square())
    return torch.where(known, before, logits), torch.where(known, steep.detach(), 1.0)


def unbent(
    classifier: Prepared, points: Tensor, y: Tensor, loss: losses.Loss, aims: Tensor | None, interval: Tensor,
    exact: bool = False, rows: Tensor | None = None, before: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return loss, logits and gradient at points [n, ...] of rows whose outputs lie in the `interval` [n].

    The gradient is right up to a positive factor; `exact` gives that of the loss of the logits, where in
    another interval both outputs count as the steeper. The loss is that of the outputs as they are, or that
    of the logits `before`.
    """
    unknown, sizes = interval == UNKNOWN, list[Tensor]()
    some = bool(unknown.any())

    def directions(logits: Tensor) -> Tensor:
        """Return [n, C, K]: what is to rise and, where both are to count alike, what is to fall."""
        straight, steep = inverse(logits, interval)
        by = losses.loss_and_grad(straight, y, loss, aims, not exact)[1] * steep
        # every factor stays in half precision
        sizes.append(by.abs().amax(1).clamp_min(torch.finfo(by.dtype).tiny))
        by = by / sizes[0][:, None]
        if not some:
            return by[:, None]
        margin = losses.loss_and_grad(logits, y, loss if callable(loss) else "margin", aims)[1]
        both = torch.stack([margin.clamp_min(0), margin.clamp_max(0)], 1)
        return torch.where(unknown[:, None, None], both, torch.stack([by, torch.zeros_like(by)], 1))

    logits, gradients = classifier.jacobian(points, directions, rows=rows)
    gradient = gradients[:, 0] * like(sizes[0], points) if exact else gradients[:, 0]
    if some:
        units, length = _units(gradients)
        both = (units * like(length.amax(1), units) if exact else units).sum(1)
        gradient = torch.where(like(unknown, points), both, gradient)
    seen = inverse(logits, interval)[0] if before else logits
    return losses.loss_value(seen, y, loss, aims), logits, gradient


def _units(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradients [n, C, ...] of length 1, or 0 where they are, and their lengths [n, C]."""
    largest = gradients.flatten(2).abs().amax(2).clamp_min(torch.finfo(gradients.dtype).tiny)
    units = gradients / like(largest, gradients)  # whose squares are in the range of the dtype
    length = units.flatten(2).norm(dim=2).clamp_min(0.5)
    return units / like(length, units), length * largest


def ways(logits: Tensor, classes: Tensor, interval: Tensor) -> Tensor:
    """Return [n, C, K], the directions whose gradients `normals` takes, of some classes int64 [n, C]."""
    one = torch.nn.functional.one_hot(classes, logits.shape[1]).to(logits)
    return one * inverse(logits, interval)[1][:, None]


def normals(logits: Tensor, gradients: Tensor, classes: Tensor, interval: Tensor) -> tuple[Tensor, Tensor]:
    """Return the leads of the first class over the others [n, C - 1], and the gradients of their negatives.

    In another interval all outputs count as the steepest of them, which is squashed least.
    """
    units, length = _units(gradients)
    evened = units * like(length.amax(1), units)
    gradients = torch.where(like(interval == UNKNOWN, gradients), evened, gradients)
    before = inverse(logits, interval)[0].gather(1, classes)
    return before[:, :1] - before[:, 1:], gradients[:, 1:] - gradients[:, :1]


# The sign: whether gradients fall off towards an end of the outputs where many crowd.


def looks_bounded(logits: Tensor, unusable: Tensor) -> bool:
    """Return whether so many outputs of the classes are near their least or largest that a look is due."""
    if logits.shape[0] < FEW or len(logits := logits[~unusable]) < FEW:
        return False
    low, high = logits.aminmax(dim=0)
    near = CLOSE * (high - low)
    shares = torch.stack([logits < low + near, logits > high - near]).float().mean(1).amax(0)
    return float(shares.mean()) > DUE + 1.5 / len(logits)  # one is the end itself


def falls_off(classifier: Prepared, x: Tensor, rows: Tensor | None = None) -> float:
    """Return from 0 to 1 how strictly gradients fall off towards an end of the outputs where many crowd."""
    # It is the rank correlation of the distance from that end with the norm of the gradient. Where a net was
    # trained until its outputs crowd, gradients are small there, too, but in no order. Log probabilities are
    # logits but for one number a row, which takes the gradient of the largest: of them the lower end counts.
    points = torch.cat([x.lerp(x.roll(1, 0), part) for part in BLENDS])
    rows = None if rows is None else rows.repeat(len(BLENDS))
    logits = classifier.verdict(points, rows)
    ends = logits[logits.isfinite().all(1)]
    # a recurrent net of two classes also saturates where it is sure: of few, known intervals count alone
    if not len(ends) or (logits.shape[1] < FEWEST and float(ends.abs().max()) > 1):
        return 0.0
    picks = torch.linspace(0, logits.shape[1] - 1, min(OUTPUTS, logits.shape[1]), device="cpu").long()
    order = logits.argsort(1)[:, picks.to(logits.device)]
    # each class may have an interval of its own
    intervals = [torch.stack([end.expand(logits.shape[1]) for end in (ends.amin(), ends.amax())])]
    intervals += [torch.stack([ends.amin(0), ends.amax(0)])]
    due = [interval for interval in intervals if _crowds(logits, interval)]
    if not due:
        return 0.0
    directions = torch.nn.functional.one_hot(order, logits.shape[1]).to(logits)
    try:
        logits, sizes = classifier.jacobian(
            points, directions, lambda gradient: gradient.flatten(1).norm(dim=1), rows
        )
    except NoGradientError:
        return 0.0
    moved = intervals[1][0] < intervals[1][1]  # of (0, z) the second
    sizes = sizes.double().where(moved[order], torch.nan)
    in_logs = _log_probabilities(logits)
    return max(_falls_off(logits, sizes, order, interval, in_logs) for interval in due)


def _crowds(logits: Tensor, interval: Tensor) -> bool:
    ends = ((logits - end).abs() < CLOSE * (interval[1] - interval[0]) for end in interval)
    return any(float(end.float().mean()) >= DUE_ALL for end in ends)


def _log_probabilities(logits: Tensor) -> bool:
    """Return whether the exponentials of each finite row add up to 1, but for their rounding."""
    rows = logits[logits.isfinite().all(1)]
    halves = (torch.bfloat16, torch.float16)
    held = (dtype for dtype in halves if torch.equal(rows.to(dtype).to(rows), rows))
    slack = max(ONE, 4 * torch.finfo(next(held, torch.float32)).eps)
    return bool(((rows.double().exp().sum(1) - 1).abs() <= slack).all())


def _falls_off(logits: Tensor, sizes: Tensor, order: Tensor, interval: Tensor, in_logs: bool) -> float:
    low, high, kept = interval[0][order], interval[1][order], sizes.isfinite()
    place, sizes = ((logits.gather(1, order) - low) / (high - low))[kept], sizes[kept]
    if not len(sizes):  # no gradient is finite
        return 0.0
    falls = [0.0]
    middle = sizes[(place - 0.5).abs() < 0.4]
    usual = float(middle.median() if len(middle) else sizes.max())
    for end in (place, *[1 - place] * (not in_logs)):
        near = end <= CLOSE
        if (
            int(near.sum()) > DUE_ALL * near.numel()
            and (small := float(sizes[near].median())) < SMALL * usual
        ):
            # exactly nothing has no order
            falls.append(1.0 if small < 1e-3 * usual else _rank_correlation(end[near], sizes[near]))
    return max(falls)


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


# What tells that outputs are squashed: clean logits alone.

ROWS, MANY = 8, 16  # of fewer nothing is said; of fewer, or of fewer classes than 5, only of known ends
HEADS = {"sigmoid": (0.0, 1.0), "softsign": (-1.0, 1.0)}
# what is near an end, of the width, and the share of outputs that are: where ends are known, and where not
NEAR_KNOWN, SHARE_KNOWN, NEAR_ANY, SHARE_ANY = 0.1, 0.25, 0.02, 0.2
STEEP = 0.995  # what a softsign reaches from 199 on, a tanh from 3
SUM = 0.01  # how far the sum of probabilities is from 1, in half precision, too
TOLD = "bounded_outputs: outputs crowd at their ends, as of a {}, where gradients vanish: {}"
MEND = "give fa.models.logits(model, '{}'), or return the logits: attack the model without it"


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
    if len(rows) < MANY or rows.shape[1] < FEWEST:
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
    return TOLD.format(kind, ADVICE if kind == "clamp" else MEND.format(kind))


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
