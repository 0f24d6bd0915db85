"""The guard: a search copy is not trusted until its logits and gradient were compared with the model's.

Logits are not enough: a wrong backward pass changes none of them.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass

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

ROWS = 16  # of a batch that are compared
NUDGES = 8  # of x, to tell kinks from mistakes
KINKS = 8  # one row in eight may have a kink that no nudge has found
ALIKE = 0.9  # cosine from which two gradients are taken for the same direction
LENGTH = 1.25  # the largest ratio of lengths of gradients that differ by rounding to half precision
WORST = 10  # one row in ten may point anywhere and have any length
LEAST_ALIKE = 0.3  # below, a search in half precision goes elsewhere
LOGITS, GRADIENTS = 8, 4  # passes of a randomized model whose mean is compared
# how much further off in half precision logits may be than those of the search without rewrites
AS_PLAIN = 1.5

Pass = Callable[..., Tensor]  # of x, or of x and by_logits


@dataclass(frozen=True)
class Ways:
    """Three ways to the logits [B, K] at x, or with by_logits [B, K] to the gradients of by_logits @ logits.

    searched: by the search copy. given: by the model as given. plain: by the search copy without rewrites.
    measured: takes the mean cosine of gradients in half precision with those of the model. by_means: is
    called where logits of a randomized model were compared by their means.
    """

    searched: Pass
    given: Pass
    plain: Pass
    _: KW_ONLY
    measured: Callable[[float], None] = lambda cosine: None
    by_means: Callable[[], None] = lambda: None


def bound(format: Format) -> float:
    """Return the entry of ROUNDING; that of float32 where the format is not known."""
    return ROUNDING.get(format, ROUNDING[torch.float32])


def difference(logits: Tensor, others: Tensor) -> float:
    """Return the largest difference of two [B, K], but for shifts of a row, which change no decision."""
    apart = logits.double() - others.double()
    return float((apart - apart.mean(-1, keepdim=True)).abs().max())


def allowed(logits: Tensor, formats: Iterable[Format]) -> Tensor:
    """Return the difference from `logits` [B, K] that rounding to the coarsest of `formats` may cause."""
    logits, most = logits.double(), max(map(bound, formats))
    spread = (logits - logits.mean(1, keepdim=True)).abs().max()
    return most * spread + 8 * torch.finfo(torch.float32).eps * logits.abs().max()


def same_logits(ways: Ways, x: Tensor, found: Tensor, formats: list[Format]) -> bool | None:
    """Return whether logits `found` by the search differ by rounding alone; None where none are finite."""
    given, half = ways.given(x), any(format in HALVES for format in formats)
    finite = given.isfinite().all(1)
    kept = finite & found.isfinite().all(1) if half else finite  # half precision overflows
    if not bool(kept.any()):
        return False if bool(finite.any()) else None
    most, apart = float(allowed(given[kept], formats)), difference(found[kept], given[kept])
    if apart <= most:
        return True
    verdicts = torch.stack([ways.given(x)[kept] for _ in range(LOGITS)])
    centered = verdicts.double() - verdicts.double().mean(-1, keepdim=True)
    spread = float((centered.amax(0) - centered.amin(0)).max())
    if spread > 0:
        ways.by_means()
        searches = torch.stack([ways.searched(x)[kept] for _ in range(LOGITS)])
        most, apart = most + spread, difference(searches.mean(0), verdicts.mean(0))
    return apart <= most or (half and apart <= AS_PLAIN * difference(ways.plain(x)[kept], given[kept]))


def agrees(ways: Ways, x: Tensor, by_logits: Tensor, found: Tensor, format: Format) -> bool | None:
    """Return whether the gradients `found` by the search are the model's; None where there are none."""
    rows = found.flatten(1).isfinite().all(1) & by_logits.isfinite().all(1)
    rows &= by_logits.abs().amax(1) > torch.finfo(torch.float32).tiny
    if not bool(rows.any()):
        return None
    close = _same_direction if format in HALVES else _same
    return close(ways, x, by_logits, found, rows, format) or _randomized_alike(
        ways, x, by_logits, rows, format
    )


def _same(ways: Ways, x: Tensor, by_logits: Tensor, found: Tensor, rows: Tensor, format: Format) -> bool:
    """Return whether gradients differ by rounding, or no more than the model's own do across a kink."""
    expected = ways.given(x, by_logits)
    apart, length = _length(found - expected), _length(expected)
    most, jump = bound(format) * length, torch.zeros_like(length)
    off, step = rows & (apart > most), 16 * torch.finfo(x.dtype).eps * max(float(x[rows].abs().amax()), 1e-3)
    for nudge in range(NUDGES):
        if not bool(off.any()):
            return True
        noise = rng.uniform(x[0].numel(), 0, torch.arange(len(x), device=x.device), nudge).view(x.shape) - 0.5
        beside = ways.given(x + (step * 2 ** (nudge % 4) * noise).to(x.dtype), by_logits)
        jump = torch.maximum(jump, _length(beside - expected))
        off &= apart > most + 2 * jump
    alike = (_cosine(found, expected) >= ALIKE) & (_stretch(found, expected) <= math.log(LENGTH))
    return int(off.sum()) <= int(rows.sum()) // KINKS and bool(alike[off].all())


def _same_direction(
    ways: Ways, x: Tensor, by_logits: Tensor, found: Tensor, rows: Tensor, format: Format
) -> bool:
    """Return whether gradients in half precision are as near to the model's as that precision allows."""
    expected = ways.given(x, by_logits)

    def measure(gradient: Tensor) -> tuple[float, float, float]:
        """Return the mean cosine, the worst but for a few rows, and the share of rows of another length."""
        cosine = _cosine(gradient, expected)[rows]
        longer = _stretch(gradient, expected)[rows] > math.log(LENGTH)
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
    expected, again = (ways.given(x, by_logits) for _ in range(2))
    if not bool((_length(again - expected) > bound(format) * _length(expected))[rows].any()):
        return False  # it answers the same each time
    drawn = []
    for pull in (ways.searched, ways.given):
        with rng.generators_kept(x.device, seed=0):
            drawn.append(pull(x, by_logits))
    if bool((_cosine(*drawn)[rows] >= ALIKE).all()):
        return True  # the same draws, the same gradients
    searched, one, other = (_mean(pull, x, by_logits) for pull in (ways.searched, ways.given, ways.given))
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
