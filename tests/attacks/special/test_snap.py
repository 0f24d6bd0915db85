"""Snapped points: the same to a model that binarizes, and nothing is nearer."""

import pytest
import torch

from fastadv.attacks.special.snap import snap


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.0, -0.3])
def test_nothing_nearer_looks_the_same(dtype: torch.dtype, threshold: float) -> None:
    """Of all numbers of half precision, in which some thresholds lie below and others above themselves."""
    every = torch.arange(-32768, 32767, dtype=torch.int16).view(dtype)
    every = every[every.isfinite() & (every.abs() <= 1)]
    x, x_adv = torch.rand(2, 1, 40, generator=torch.Generator().manual_seed(0)).to(dtype) - 0.5
    snapped = snap(x, x_adv, threshold)
    assert snapped.dtype == dtype
    assert torch.equal(snapped >= threshold, x_adv >= threshold)
    for place in range(40):
        same = every[(every >= threshold) == (x_adv[0, place] >= threshold)].double()
        least = (same - x[0, place].double()).abs().min()
        assert (snapped[0, place].double() - x[0, place].double()).abs() == least
