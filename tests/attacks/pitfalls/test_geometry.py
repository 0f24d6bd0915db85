"""Pitfalls 5, 6 and 14: boxes, balls and the points inside them."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult

from ..contract.cases import NAMED, options
from ..nets import RADIUS, THREATS, Case, images, labels, linear, mlp, threat

pytestmark = pytest.mark.slow  # thousands of short runs


@cache
def in_the_unit_box(name: str, norm: str) -> AttackResult:
    model, x = mlp(), images(12)
    return NAMED[name](model, x, labels(model, x), threat(norm))


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
        radius = RADIUS[norm] if norm == "l0" else RADIUS[norm] * width
        other = case(Rescaled(mlp(), *box), low + width * x, labels(mlp(), x), THREATS[norm](radius, box))
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

    @pytest.mark.only(takes="step_size")
    def test_around_the_clean_sample(self, case: Case, norm: str) -> None:
        # long steps and many of them: a ball around the last iterate would have drifted away
        model, x = mlp(), images(12)
        inside = threat(norm)
        more = options(case, steps=25, step_size=3.0 * RADIUS[norm])
        out = case(model, x, labels(model, x), inside, **more)
        assert inside.contains(out.x_adv, x).all()


class TestPitfall14RandomStarts:
    """Uniform in the ball, added to x, in the box, a function of the seed and the sample."""

    @staticmethod
    def start(case: Case, x: Tensor, inside: object, **options: object) -> Tensor:
        model = linear(2, x[0].numel()).to(x.dtype)
        with torch.no_grad():
            model[1].weight.zero_()
        return case(model, x, labels(model, x), inside, steps=0, random_start=True, **options).x_adv

    @pytest.mark.only(takes=("random_start", "steps"))
    def test_law_of_the_radius(self, case: Case, norm: str) -> None:
        if norm == "l0":
            pytest.skip("L0 has no volume")
        count = 5
        x = torch.full((4000, count), 0.5, dtype=torch.float64)
        radius = 0.3
        shift = self.start(case, x, THREATS[norm](radius)) - x
        distance = THREATS[norm](radius).distance(x + shift, x) / radius
        assert abs(float(distance.mean()) - count / (count + 1)) < 0.01
        assert shift.mean(0).abs().max() < 0.01
        assert (shift.T @ shift / 4000 / shift.pow(2).mean() - torch.eye(count)).abs().max() < 0.1

    @pytest.mark.only(takes=("random_start", "steps"))
    def test_in_the_box_and_by_seed(self, case: Case, norm: str) -> None:
        x = images(64).round()
        inside = threat(norm, 2)
        first, again, other = (self.start(case, x, inside, seed=seed) for seed in (3, 3, 4))
        assert inside.contains(first, x).all()
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        ids = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(self.start(case, x[ids], inside, seed=3, ids=ids), first[ids])
