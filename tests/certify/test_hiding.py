"""Hidden coordinates: what is drawn, what that proves, and a proof by all patterns of small images."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.certify.noise import GREY, Hiding
from fastadv.certify.smooth import smooth
from fastadv.ops.noisy_copies import CHOICE

SHARES = [0.3, 0.5, 0.9, 0.97]
COORDINATES = 4


class ByTable(nn.Module):
    """A classifier of images of four coordinates, each 0, grey or 1, by a random table of classes."""

    def __init__(self, seed: int, classes: int = 3, lean: float = 0.6) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        table = torch.randint(classes, (3**COORDINATES,), generator=draw)
        table[torch.rand(len(table), generator=draw) < lean] = 0
        self.register_buffer("table", table)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        places = (2 * x.flatten(1)).round().long() @ 3 ** torch.arange(COORDINATES)
        return nn.functional.one_hot(self.table[places], self.classes).float()


def probabilities(model: ByTable, x: Tensor, hidden: float) -> list[float]:
    result = [0.0] * model.classes
    for pattern in itertools.product((False, True), repeat=COORDINATES):
        share = math.prod(hidden if hides else 1 - hidden for hides in pattern)
        result[int(model(torch.where(torch.tensor(pattern), GREY, x)[None]).argmax())] += share
    return result


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [0.7, 0.85, 0.95])
def test_no_point_within_an_exact_radius_is_decided_otherwise(hidden: float) -> None:
    noise, certified = Hiding(hidden), 0
    points = [torch.tensor(point) for point in itertools.product((0.0, 1.0), repeat=COORDINATES)]
    for seed in range(30):
        model = ByTable(seed, lean=(0.6, 0.9, 0.97)[seed % 3])
        exact = [probabilities(model, point, hidden) for point in points]
        for x, shares in zip(points, exact, strict=True):
            radius, top = noise.radius(max(shares)), shares.index(max(shares))
            for z, other in zip(points, exact, strict=True):
                if int((x != z).sum()) <= radius:
                    certified += int((x != z).sum()) > 0
                    assert all(other[top] > p for k, p in enumerate(other) if k != top)
    assert certified > 100


def test_the_bound_is_reached() -> None:
    """A model that looks at one coordinate loses all that the bound allows."""
    hidden, noise = 0.7, Hiding(0.7)
    p = hidden + (1 - hidden)  # class 0 by whatever is seen of x
    assert noise.radius(p) == pytest.approx(math.log(0.5) / math.log(hidden))
    assert p - (1 - hidden**1) == pytest.approx(hidden)  # the probability at its only rival
    assert noise.radius(1 - 0.2) < 1 < noise.radius(1 - 0.19)  # 0.7 > 1.5 - p


@pytest.mark.parametrize("hidden", SHARES)
def test_radii_and_probabilities_are_inverse(hidden: float) -> None:
    noise = Hiding(hidden)
    assert noise.radius(0.5) == noise.radius(0.2) == 0
    for p in (0.5001, 0.75, 0.99, 1.0):
        radius = noise.radius(p)
        assert noise.probability(radius) == pytest.approx(p, abs=1e-11)
    assert noise.probability(1e4) > 1  # refused, whatever the hits
    assert noise.ladder[0] == 0
    assert len(noise.ladder) <= 18
    assert noise.ladder[-1] + noise.ladder[1] >= noise.radius(1.0)
    assert all(radius == int(radius) for radius in noise.ladder)


@pytest.mark.parametrize("hidden", SHARES)
def test_what_is_drawn(hidden: float) -> None:
    noise, x = (
        Hiding(hidden),
        torch.randint(256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255,
    )
    levels, counts = noise.levels(x), torch.tensor([700, 0, 500])
    ids, first = torch.tensor([4, 5, 9]), torch.tensor([0, 0, 100])
    table = noise.table.entries
    copies, rows = noise.copies(levels, counts, ids, first, table, 3, torch.float32)
    assert rows.bincount(minlength=3).tolist() == [700, 0, 500]
    grey = copies == GREY  # no number of 1/255 is
    assert torch.equal(copies[~grey], x[rows][~grey])
    share = float(grey.double().mean())
    assert abs(share - hidden) < 5 * math.sqrt(hidden * (1 - hidden) / grey.numel())
    # coordinates are hidden by themselves: neighbors together as often as chance has it
    both = (grey[..., 1:] & grey[..., :-1]).double().mean()
    assert abs(float(both) - hidden**2) < 5 * math.sqrt(hidden**2 * (1 - hidden**2) / grey.numel()) * 2
    # a draw depends on its sample and number alone
    few = levels[2:], torch.tensor([5]), ids[2:], torch.tensor([300]), table
    alone, _ = noise.copies(*few, 3, torch.float32)
    assert torch.equal(alone, copies[rows == 2][200:205])
    other, _ = noise.copies(*few, 4, torch.float32)
    assert not torch.equal(alone, other)
    assert noise.charge(784) < 1e-8
    off = Fraction(round(hidden * (2 << CHOICE)), 2 << CHOICE) - Fraction(hidden)
    assert noise.charge(1) >= abs(off)
    assert noise.charge(2) == 2 * noise.charge(1) > 0


def test_certificates_of_a_table_hold() -> None:
    model, hidden = ByTable(8, lean=0.95), 0.8
    x = torch.tensor([*itertools.product((0.0, 1.0), repeat=COORDINATES)]).view(-1, 1, 2, 2)
    exact = [probabilities(model, one.flatten(), hidden) for one in x]
    y = torch.tensor([shares.index(max(shares)) for shares in exact])
    for sequential in (False, True):
        result = smooth(model, (x, y), hidden, fa.L0, n=2000, sequential=sequential)
        for shares, radius, label in zip(
            exact, result.radius.tolist(), result.prediction.tolist(), strict=True
        ):
            assert radius <= Hiding(hidden).radius(shares[label])
            assert radius == int(radius)
        assert float(result.radius.max()) == 3
    assert type(result.noise) is Hiding
    decided = fa.certify.predict(model, x, hidden, 2000, norm=fa.L0)
    assert bool(((decided == y) | (decided == -1)).all())


def test_few_coordinates_are_told() -> None:
    images, model = (torch.zeros(1, 1, 2, 2), torch.zeros(1).long()), ByTable(8, lean=1.0)
    small, large = (smooth(model, images, share, fa.L0, n=2000) for share in (0.4, 1 - 1e-9))
    assert "2,000 draws certify 0.74" in str(small)
    assert "no image is certified at 1" in str(small)
    assert float(large.radius) == 4  # an image has no more
