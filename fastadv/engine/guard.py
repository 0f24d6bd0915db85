"""The guard: a search copy is not trusted until its logits and gradient were compared with the model's.

Logits are not enough: a wrong backward pass changes none of them.
"""

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fastadv import rng

Format = torch.dtype | str | None  # "tf32" is no dtype

# The largest difference of centered logits, as a share of their spread, that rounding may cause. Through tens
# of layers float32 stays below 1e-4 (TF32 convolutions below 1e-3), bfloat16 and float16 below a tenth.
ROUNDING: dict[Format, float] = {
    torch.float64: 1e-6, torch.float32: 1e-3, "tf32": 1e-2, torch.float16: 0.1, torch.bfloat16: 0.1,
}  # fmt: skip

HALVES: tuple[Format, ...] = (torch.float16, torch.bfloat16)

FOUR = 2  # bits of a number: sizes up to four times each other are of one class
GROWN = 4  # values so many times larger are of another class
# passes of one kind, after which a few rows are compared once more; a GPU takes as long for few as for many
EVERY, EVERY_ON_GPU = 64, 512
ROWS, FEW = 16, 4  # compared of a new kind; of a known one, for another number of rows or once more
NUDGES = 8  # of x, to tell kinks from mistakes
KINKS = 8  # one row in eight may have a kink that no nudge has found
ALIKE = 0.9  # cosine from which two gradients are taken for the same direction
LENGTH = 1.25  # the largest ratio of lengths of gradients that differ by rounding to half precision
WORST = 10  # one row in ten may point anywhere and have any length
LEAST_ALIKE = 0.3  # below, a search in half precision goes elsewhere
LOGITS, GRADIENTS = 8, 4  # passes of a randomized model whose mean is compared
# how much further off in half precision logits may be than those of the search without rewrites
AS_PLAIN = 1.5

Pass = Callable[..., Tensor]  # of x to logits [B, K]; of (x, by_logits) to gradients of by_logits @ logits


@dataclass(frozen=True)
class Ways:
    """Three ways to the logits [B, K] at x, or to the gradients [B, ...] of by_logits [B, K] @ logits.

    searched: by the search copy. given: by the model as given. plain: by the search copy without rewrites.
    measured: takes the mean cosine of gradients in half precision with those of the model. parts: in which a
    few rows pass the model as given.
    """

    searched: Pass
    given: Pass
    plain: Pass
    measured: Callable[[float], None] = field(default=lambda cosine: None, kw_only=True)
    parts: int = field(default=1, kw_only=True)

    def of_few(self) -> "Ways":
        return replace(self, given=partial(_in_parts, self.given, self.parts)) if self.parts > 1 else self


def _in_parts(run: Pass, parts: int, *rows: Tensor) -> Tensor:
    split = zip(*(torch.split(each, max(1, len(each) // parts)) for each in rows), strict=True)
    try:
        return torch.cat([run(*part) for part in split])
    except Exception:  # models of one batch size raise anything
        return run(*rows)


def bound(format: Format) -> float:
    """Return the entry of ROUNDING; that of float32 where the format is not known."""
    return ROUNDING.get(format, ROUNDING[torch.float32])


def compare(
    given: Tensor,
    searched: Tensor,
    formats: Iterable[Format],
    verdict: Callable[[], Tensor],
    search: Callable[[], Tensor],
) -> tuple[float, float, bool]:
    """Return (difference, what is allowed, whether by means) of two logits [B, K]; by means if randomized."""
    apart, allowed = difference(searched, given), allowance(given, formats)
    if apart <= allowed:
        return apart, allowed, False
    verdicts = torch.stack([verdict() for _ in range(LOGITS)])
    centered = verdicts.double() - verdicts.double().mean(-1, keepdim=True)
    spread = float((centered.amax(0) - centered.amin(0)).max())
    if spread == 0:
        return apart, allowed, False
    searches = torch.stack([search() for _ in range(LOGITS)])
    return difference(searches.mean(0), verdicts.mean(0)), allowed + spread, True


def difference(logits: Tensor, others: Tensor) -> float:
    """Return the largest difference of two [B, K], but for shifts of a row, which change no decision."""
    apart = logits.double() - others.double()
    return float((apart - apart.mean(-1, keepdim=True)).abs().max())


def allowance(logits: Tensor, formats: Iterable[Format]) -> float:
    """Return the difference from `logits` [B, K] that rounding to the coarsest of `formats` may cause."""
    logits, most = logits.double(), max(map(bound, formats))
    spread = (logits - logits.mean(1, keepdim=True)).abs().max()
    return float(most * spread + 8 * torch.finfo(torch.float32).eps * logits.abs().max())


def some_rows(count: int, device: torch.device, most: int = ROWS) -> Tensor:
    """Return `most` row numbers below `count`: the first, the last, where kernels end, and some between."""
    if count <= most:
        return torch.arange(count, device=device)
    third = most // 3
    between = most - 2 * third
    middle = [third + (count - 2 * third - 1) * place // (between - 1) for place in range(between)]
    return torch.tensor([*range(third), *middle, *range(count - third, count)], device=device)


def same_logits(ways: Ways, x: Tensor, found: Tensor, formats: list[Format], most: int = ROWS) -> bool:
    """Return whether the logits `found` by the search at x are those of the model, but for rounding."""
    picked = some_rows(len(x), x.device, most)
    if _same_logits(ways.of_few(), x[picked], found[picked], formats):
        return True
    return _same_logits(ways, x, found, formats)  # rows may depend on each other


def _same_logits(ways: Ways, x: Tensor, found: Tensor, formats: list[Format]) -> bool:
    given, half = ways.given(x), any(format in HALVES for format in formats)
    kept = given.isfinite().all(1)
    if half:  # which overflows
        kept &= found.isfinite().all(1)
    if not bool(kept.any()):
        return True
    apart, allowed, _ = compare(
        given[kept], found[kept], formats, lambda: ways.given(x)[kept], lambda: ways.searched(x)[kept]
    )
    if apart <= allowed or not half:
        return apart <= allowed
    return apart <= AS_PLAIN * difference(ways.plain(x)[kept], given[kept])


def agrees(
    ways: Ways, x: Tensor, by_logits: Tensor, found: Tensor, format: Format, most: int = ROWS
) -> bool | None:
    """Return whether the gradients `found` by the search are the model's; None where there are none."""
    whole = found.flatten(1).isfinite().all(1) & by_logits.isfinite().all(1)
    whole &= by_logits.abs().amax(1) > torch.finfo(torch.float32).tiny
    picked = some_rows(len(x), x.device, most)
    picked = picked[whole[picked]]
    if not len(picked):
        return None
    if _close(ways.of_few(), x[picked], by_logits[picked], found[picked], format):
        return True
    if _close(ways, x, by_logits, found, format, whole):  # rows may depend on each other
        return True
    return _randomized_alike(ways, x, by_logits, whole, format)


def _close(
    ways: Ways, x: Tensor, by_logits: Tensor, found: Tensor, format: Format, rows: Tensor | None = None
) -> bool:
    expected = ways.given(x, by_logits)
    if format in HALVES:
        return _same_direction(ways, x, by_logits, found, expected, rows)
    return _same(ways, x, by_logits, found, expected, bound(format), rows)


def _same(
    ways: Ways, x: Tensor, by_logits: Tensor, found: Tensor, expected: Tensor, tolerance: float,
    rows: Tensor | None,
) -> bool:  # fmt: skip
    """Return whether gradients differ by rounding, or no more than the model's own do across a kink."""
    apart, length = _length(found - expected), _length(expected)
    off = apart > tolerance * length
    if rows is not None:
        off &= rows
    if not bool(off.any()):
        return True
    count = len(x) if rows is None else int(rows.sum())
    # by themselves, where rows do not depend on each other
    ids = off.nonzero().squeeze(1) if rows is None else torch.arange(len(x), device=x.device)
    near, by_near, jump = x[ids], by_logits[ids], apart.new_zeros(len(ids))
    step = 16 * torch.finfo(x.dtype).eps * max(float(x.abs().amax()), 1e-3)
    for nudge in range(NUDGES):
        noise = rng.uniform(x[0].numel(), 0, ids, nudge).view(near.shape) - 0.5
        beside = ways.given(near + (step * 2 ** (nudge % 4) * noise).to(x.dtype), by_near)
        jump = torch.maximum(jump, _length(beside - expected[ids]))
        off[ids] &= apart[ids] > tolerance * length[ids] + 2 * jump
        if not bool(off.any()):
            return True
    alike = (_cosine(found, expected) >= ALIKE) & (_stretch(found, expected) <= math.log(LENGTH))
    return int(off.sum()) <= count // KINKS and bool(alike[off].all())


def _same_direction(
    ways: Ways, x: Tensor, by_logits: Tensor, found: Tensor, expected: Tensor, rows: Tensor | None
) -> bool:
    """Return whether gradients in half precision are as near to the model's as that precision allows."""
    kept = slice(None) if rows is None else rows

    def measure(gradient: Tensor) -> tuple[float, float, float]:
        """Return the mean cosine, the worst but for a few rows, and the share of rows of another length."""
        cosine = _cosine(gradient, expected)[kept]
        longer = _stretch(gradient, expected)[kept] > math.log(LENGTH)
        worst = cosine.sort().values[len(cosine) // WORST]
        return float(cosine.mean()), float(worst), float(longer.double().mean())

    alike, worst, lengths = measure(found)
    agreed = worst >= ALIKE and lengths * WORST <= 1
    if not agreed:
        mean, plain_worst, plain_lengths = measure(ways.plain(x, by_logits))
        # what is poor in that precision differs more from row to row
        margin = max(1 - ALIKE, (1 - plain_worst) / 2)
        agreed = alike >= max(mean - (1 - ALIKE), LEAST_ALIKE) and worst >= plain_worst - margin
        agreed &= lengths <= plain_lengths + 1 / WORST
    if agreed:
        ways.measured(alike)
    return agreed


def _randomized_alike(ways: Ways, x: Tensor, by_logits: Tensor, rows: Tensor, format: Format) -> bool:
    """Return whether gradients differ no more than those of the model from pass to pass."""
    with rng.generators_kept(x.device):
        expected = ways.given(x, by_logits)
        again = ways.given(x, by_logits)
        if not bool((_length(again - expected) > bound(format) * _length(expected))[rows].any()):
            return False  # it answers the same each time
    drawn = []
    for pull in (ways.searched, ways.given):
        with rng.generators_kept(x.device, seed=0):
            drawn.append(pull(x, by_logits))
    if bool((_cosine(*drawn)[rows] >= ALIKE).all()):
        return True  # the same draws, the same gradients
    with rng.generators_kept(x.device):
        searched = _mean(ways.searched, x, by_logits)
        one, other = _mean(ways.given, x, by_logits), _mean(ways.given, x, by_logits)
    own = float(_cosine(one, other)[rows].mean())
    return float(_cosine(searched, one)[rows].mean()) >= own - 0.3


def _mean(pull: Pass, x: Tensor, by_logits: Tensor) -> Tensor:
    return torch.stack([pull(x, by_logits) for _ in range(GRADIENTS)]).mean(0)


def _length(gradient: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(gradient.flatten(1).double(), dim=1)
    return length


def _stretch(one: Tensor, other: Tensor) -> Tensor:
    """Return |log(ratio of lengths)| [B]."""
    least = torch.finfo(torch.float32).tiny
    return (_length(one).clamp_min(least) / _length(other).clamp_min(least)).log().abs()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Return [B]; 1 where both are zero."""
    one, other = (each.flatten(1).double() for each in (one, other))
    both = (one == 0).all(1) & (other == 0).all(1)
    alike: Tensor = cosine_similarity(one, other, dim=1, eps=1e-300)
    return torch.where(both, torch.ones_like(alike), alike)


Used = tuple[Hashable, ...]


def size_class(x: Tensor) -> Hashable:
    """Return what batches share that take the same paths through kernels."""
    return x.dtype, tuple(x.shape[1:]), len(x).bit_length() // FOUR, torch.get_num_threads()


def largest(values: Tensor) -> float:
    """Return the largest finite size of the values; 1 where reading it would wait for a device."""
    if values.device.type != "cpu" or not values.numel():
        return 1.0
    least, most = values.aminmax()
    size = max(-float(least), float(most))
    return size if size < torch.inf else float(values.nan_to_num(0.0, 0.0, 0.0).abs().max())


def captures(x: Tensor) -> bool:
    """Return whether a CUDA graph is being captured, where no value can be read."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


@dataclass
class Known:
    """What was compared of one kind of pass: numbers of rows, largest values, and passes that are left."""

    counts: set[int] = field(default_factory=set)
    x: float = 0.0
    logits: float = 0.0
    left: int = EVERY


class Trusted:
    """The kinds of passes that were compared, by sizes, values, threads, and what they `used`, in order."""

    def __init__(self) -> None:
        self._known: dict[tuple[Used, Hashable], Known] = {}

    def owed(self, used: Used, x: Tensor, logits: Tensor) -> int:
        """Return how many rows of a pass of x, which gave these logits, are to be compared."""
        known = self._known.get((used, size_class(x)))
        if known is None or largest(x) > GROWN * known.x or largest(logits) > GROWN * known.logits:
            return ROWS
        known.left -= 1
        return FEW if known.left < 0 or len(x) not in known.counts else 0

    def knows_size(self, x: Tensor) -> bool:
        """Return whether a gradient was compared for as many rows, or for more of that class."""
        held, own = list(self._known.items()), size_class(x)  # another thread may add one meanwhile
        return any(
            used[0] and kind == own and len(x) <= max(known.counts, default=0) for (used, kind), known in held
        )

    def forget(self) -> None:
        self._known = {}

    def add(self, used: Used, x: Tensor, logits: Tensor) -> None:
        """Take a pass of x that gave these logits, and was right."""
        known = self._known.setdefault((used, size_class(x)), Known())
        known.counts.add(len(x))
        known.x, known.logits = max(known.x, largest(x)), max(known.logits, largest(logits))
        known.left = EVERY if x.device.type == "cpu" else EVERY_ON_GPU
