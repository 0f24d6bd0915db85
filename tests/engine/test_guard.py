"""How the guard judges logits and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv.engine import guard


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        (lambda row: row * (1 + 5e-4), True), (lambda row: 1.2 * row, True), (lambda row: 1.3 * row, False),
        (lambda row: -row, False), (lambda row: row.flip(0), False), (lambda row: 0 * row, False),
    ],
)  # fmt: skip
def test_a_row_may_differ_by_rounding_or_a_kink(change: Callable[[Tensor], Tensor], fine: bool) -> None:
    expected = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    rows = expected.clone()
    rows[5] = change(expected[5])
    assert guard.same_gradient(rows, expected, torch.float32) == fine
    expected[5] = torch.nan
    assert guard.same_gradient(rows, expected, torch.float32)


@pytest.mark.parametrize(("format", "most"), [(torch.float32, 1e-3), ("tf32", 1e-2), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_bound_of_rounding(format, most, factor):
    """A shift of all logits of a row decides nothing, and a row that the model has NaN for does not count."""
    expected = torch.randn(9, 5)
    logits, spread = expected + 7, (expected - expected.mean(1, keepdim=True)).abs()[1:].max()
    logits[4, :2] += factor * most * spread * torch.tensor([1.0, -1.0])
    expected[0] = torch.nan
    assert guard.same_logits(logits, expected, [torch.float32, format]) == (factor < 1)
    assert guard.same_logits(logits * torch.nan, expected, [format]) is False
    assert guard.same_logits(logits, expected * torch.nan, [format]) is None
    alike = expected.clone()
    alike[3, 1] = torch.nan  # as where half precision overflows
    assert guard.same_logits(alike, expected, [torch.float32, format]) == (format in guard.HALVES)


def changed(right: Tensor, noise: Tensor, every: int, cosine: float = 1, length: float = 1) -> Tensor:
    rows = right.clone()
    rows[::every] = length * (cosine * right + (1 - cosine**2) ** 0.5 * noise)[::every]
    return rows


HALF_ROWS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "right": (lambda right, noise: right, True),
    "one row of sixteen": (lambda right, noise: changed(right, noise, 16, cosine=0.2), True),
    "every eighth row to the side": (lambda right, noise: changed(right, noise, 8, cosine=0.2), False),
    "every row, as far as it may": (lambda right, noise: changed(right, noise, 1, cosine=0.85), True),
    "every row, too far": (lambda right, noise: changed(right, noise, 1, cosine=0.75), False),
    "every eighth row too short": (lambda right, noise: changed(right, noise, 8, length=0.45), False),
    "every eighth row a bit short": (lambda right, noise: changed(right, noise, 8, length=0.9), True),
    "half the rows": (lambda right, noise: changed(right, noise, 2, length=3), False),
}


@pytest.mark.parametrize("case", HALF_ROWS)
def test_half_precision_is_judged_by_its_mean_and_its_worst_rows(case: str) -> None:
    right, noise = F.normalize(torch.randn(2, 16, 500, generator=torch.Generator().manual_seed(0)), dim=2)
    noise = F.normalize(noise - (noise * right).sum(1, keepdim=True) * right)
    change, fine = HALF_ROWS[case]
    assert guard.same_direction(change(right, noise), right)[0] == fine
