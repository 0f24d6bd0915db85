"""Snapped points: the same to a model that binarizes, and nothing is nearer."""

import pytest
import torch
from torch import Tensor

from fastadv.attacks.special.snap import snap
from fastadv.engine import freeze
from fastadv.models import Binarized


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


@pytest.mark.parametrize("own", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_sees_no_difference(own: torch.dtype, weights: torch.dtype) -> None:
    """Its weights may be coarser than x, and candidates [B, C, D] more than samples."""
    seen: list[Tensor] = []

    class Seen(torch.nn.Linear):
        def forward(self, b: Tensor) -> Tensor:
            seen.append(b)
            return super().forward(b)

    frozen = freeze(Binarized(Seen(784, 2).to(weights), 0.7))
    x, x_adv = torch.rand(2, 5, 784, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(own)
    near = 0.7 + torch.linspace(-0.01, 0.01, 784, dtype=torch.float64).to(own)
    many = torch.stack([x_adv, near.expand_as(x_adv)], 1)
    snapped = snap(x.unsqueeze(1), many, 0.7, weights)
    frozen.verdict(x)  # which it may refuse in their own dtype
    seen.clear()
    for points in (many, snapped):
        frozen.verdict(points.flatten(0, 1))
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(first, second)
    assert (snapped == x.unsqueeze(1)).float().mean() > 0.3
