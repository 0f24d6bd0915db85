"""The guard: whether a search copy answers as the model does, by its logits and a gradient.

Logits are not enough: a wrong backward pass changes none of them.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

Format = torch.dtype | str | None  # "tf32" is no dtype

# The largest difference of centered logits, as a share of their spread, that rounding may cause. Through tens
# of layers float32 stays below 1e-4 (TF32 convolutions below 1e-3), bfloat16 and float16 below a tenth.
ROUNDING: dict[Format, float] = {
    torch.float64: 1e-6, torch.float32: 1e-3, "tf32": 1e-2, torch.float16: 0.1, torch.bfloat16: 0.1,
}  # fmt: skip

HALVES: frozenset[Format] = frozenset((torch.float16, torch.bfloat16))

# Gradients across a kink: their least cosine and largest ratio of lengths, as in half precision
ALIKE, LENGTH = 0.9, 1.25
FAR = 100  # times the largest lead: where logits lie further below, their class is never predicted
WORST = 10  # of gradients in half precision one row in ten may point anywhere and have any length
LEAST_ALIKE, MEAN_ALIKE = 0.3, 0.8  # cosines in half precision: of all other rows, and the mean


def bound(format: Format) -> float:
    """Return the entry of ROUNDING; that of float32 where the format is not known."""
    return ROUNDING.get(format, ROUNDING[torch.float32])


def near(logits: Tensor) -> Tensor:
    """Return bool [K], which of logits [..., K] ever come near the largest: others decide nothing."""
    rows = logits.flatten(0, -2)
    rows = rows[rows.isfinite().all(1)]
    if not len(rows):
        return torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    top = rows.topk(min(2, rows.shape[1]), 1).values
    lead = (top[:, :1] - top[:, -1:]).amax()
    return ((top[:, :1] - rows <= FAR * lead) | (lead == 0)).any(0)


def allowed(logits: Tensor, formats: Iterable[Format]) -> Tensor:
    """Return the difference from `logits` [B, K] that rounding to the coarsest of `formats` may cause."""
    logits, most = logits.double(), max(map(bound, formats))
    spread = (logits - logits.mean(1, keepdim=True)).abs().max()
    return most * spread + 8 * torch.finfo(torch.float32).eps * logits.abs().max()


def same_logits(logits: Tensor, expected: Tensor, formats: list[Format]) -> bool | None:
    """Return whether logits [B, K] differ by rounding alone; None where none are finite."""
    # a shift of a row changes no decision, and rows may overflow in half precision
    rows = expected.isfinite().all(1)
    if not bool(rows.any()):
        return None
    if not HALVES.isdisjoint(formats):
        rows = rows & logits.isfinite().all(1)
    apart = (logits.double() - expected.double())[rows]
    apart = (apart - apart.mean(1, keepdim=True)).abs()
    return bool(rows.any()) and bool(apart.max() <= allowed(expected[rows], formats))


def same_gradient(gradient: Tensor, expected: Tensor, format: Format) -> bool | None:
    """Return whether gradients [B, ...] differ by rounding, or a little, as across a kink; None for zeros."""
    rows = expected.flatten(1).isfinite().all(1)
    if not bool(expected[rows].any()):
        return None
    rounded = _length(gradient - expected) <= bound(format) * _length(expected)
    alike = (cosines(gradient, expected) >= ALIKE) & (stretch(gradient, expected) <= math.log(LENGTH))
    return bool((rounded | alike | ~rows).all())


def same_direction(gradient: Tensor, expected: Tensor) -> tuple[bool | None, float]:
    """Return whether gradients in half precision point where the model's do, and their mean cosine."""
    rows = (gradient.isfinite() & expected.isfinite()).flatten(1).all(1)
    if not bool(expected[rows].any()):
        return None, 0.0
    cosine = cosines(gradient, expected)[rows]
    mean, worst = float(cosine.mean()), float(cosine.sort().values[len(cosine) // WORST])
    longer = stretch(gradient, expected)[rows] > math.log(LENGTH)
    return mean >= MEAN_ALIKE and worst >= LEAST_ALIKE and int(longer.sum()) * WORST <= len(longer), mean


def _length(gradient: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(gradient.flatten(1).double(), dim=1)
    return length


def stretch(one: Tensor, other: Tensor) -> Tensor:
    """Return |log(ratio of lengths)| [B]."""
    least = torch.finfo(torch.float32).tiny
    return (_length(one).clamp_min(least) / _length(other).clamp_min(least)).log().abs()


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Return [B]; 1 where both are zero."""
    one, other = (gradient.flatten(1).double() for gradient in (one, other))
    both = (one == 0).all(1) & (other == 0).all(1)
    alike: Tensor = cosine_similarity(one, other, dim=1, eps=1e-300)
    return torch.where(both, torch.ones_like(alike), alike)
