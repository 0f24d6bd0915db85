"""Pitfalls 5 and 6: boxes, balls and formats. Pitfall 14, random starts, is in ../test_keys.py."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult

from ..contract.cases import NAMED, wide
from ..nets import THREATS, Case, images, labels, mlp

pytestmark = pytest.mark.slow  # thousands of short runs


@cache
def in_the_unit_box(name: str, norm: str) -> AttackResult:
    model, x = mlp(), images(12)
    return NAMED[name](model, x, labels(model, x), wide(NAMED[name], norm, scale=1 / 3))


class Rescaled(nn.Module):
    """A model of the unit box, on another box."""

    def __init__(self, net: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.net, self.low, self.high = net, low, high

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x - self.low) / (self.high - self.low))
        return logits


class TestPitfall05BoundsAndUnits:
    """Any box, the same attack."""

    @pytest.mark.covered("box", [(0.0, 255.0), (-0.4242, 2.8215)])
    def test_equivariance(self, case: Case, norm: str, box: tuple[float, float]) -> None:
        low, width = box[0], box[1] - box[0]
        x, unit = images(12), in_the_unit_box(case.name, norm)
        inside = wide(case, norm, box, scale=1 / 3)
        other = case(Rescaled(mlp(), *box), low + width * x, labels(mlp(), x), inside)
        assert torch.equal(unit.success, other.success)
        same = ((other.x_adv - low) / width - unit.x_adv).abs().flatten(1).amax(1) < 1e-6
        # an L1 step goes to one coordinate, chosen by comparisons that the last bit of an uneven box can turn
        assert same.float().mean() >= (0.8 if norm == "l1" else 1.0)


# weights and pixels; of weights in float32 the contract says so
FORMATS = [
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.float16),
    (torch.float16, torch.bfloat16),
]


class TestPitfall06BudgetAndProjection:
    """The norm is at most radius * (1 + 1e-6) and the box is exact, in every format."""

    @pytest.mark.covered("formats", FORMATS)
    def test_formats(self, case: Case, norm: str, formats: tuple[torch.dtype, torch.dtype]) -> None:
        weights, pixels = formats
        model, x = mlp(dtype=weights), images(8, dtype=torch.float32).to(pixels)
        y = labels(model, x.to(weights))
        inside = THREATS[norm](3 if norm == "l0" else 8 / 255 * 4 ** (norm != "linf"))
        out = case(model, x, y, inside)
        assert out.x_adv.dtype == pixels
        assert out.x_adv.isfinite().all()
        assert inside.contains(out.x_adv, x).all()
        assert (out.x_adv != x).any() or case.entry.minimal
        assert torch.equal(out.success, labels(model, out.x_adv.to(weights)) != y)
