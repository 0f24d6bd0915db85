"""How far the logits of two twins may differ by rounding, and by the noise of a randomized model."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Format = torch.dtype | str | None  # "tf32" is no dtype

# The largest difference of centered logits, as a share of their spread, that rounding may cause. Through tens
# of layers float32 stays below 1e-4 (TF32 convolutions below 1e-3), bfloat16 and float16 below a tenth.
ROUNDING: dict[Format, float] = {
    torch.float64: 1e-6, torch.float32: 1e-3, "tf32": 1e-2, torch.float16: 0.1, torch.bfloat16: 0.1,
}  # fmt: skip

HALVES: tuple[Format, ...] = (torch.float16, torch.bfloat16)

# passes on the same rows whose means are compared, if the model is randomized
PASSES = 8


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
    """Return (difference, what is allowed, whether by means) of the logits [B, K] of two twins.

    Where they differ by more than rounding, `verdict` and `search` are passed again: of a randomized model
    the means are compared, and the spread of its own passes is added to what is allowed.
    """
    apart, allowed = difference(searched, given), allowance(given, formats)
    if apart <= allowed:
        return apart, allowed, False
    verdicts = torch.stack([verdict() for _ in range(PASSES)])
    centered = verdicts.double() - verdicts.double().mean(-1, keepdim=True)
    spread = float((centered.amax(0) - centered.amin(0)).max())
    if spread == 0:
        return apart, allowed, False
    searches = torch.stack([search() for _ in range(PASSES)])
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
