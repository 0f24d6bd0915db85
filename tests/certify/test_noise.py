"""The discrete noise against its exact moments and quantiles, and the grid of images."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.certify.noise import NORMAL, Noise, aliases
from tests.refusals import refuses


def distribution(noise: Noise | Tensor) -> list[Fraction]:
    """Return the probability of each column of the alias table, exactly."""
    entries = (noise.table.entries if isinstance(noise, Noise) else noise).tolist()
    masses = [0] * len(entries)
    for column, entry in enumerate(entries):
        threshold, alias = entry >> 16, entry & 0xFFFF
        masses[column] += threshold
        masses[alias] += (1 << 47) - threshold
    return [Fraction(mass, len(entries) << 47) for mass in masses]


@pytest.mark.parametrize("shares", [(1, 1), (0, 2), (2, 0), (0, 0, 4, 0), (1, 1, 1, 1), (3, 7, 1, 5)])
def test_an_alias_table_draws_each_column_by_its_weight_exactly(shares: tuple[int, ...]) -> None:
    weights = [share * (len(shares) << 47) // sum(shares) for share in shares]
    assert distribution(aliases(weights)) == [Fraction(share, sum(shares)) for share in shares]


NOISES = [Noise(0.003), Noise(0.12), Noise(0.25), Noise(0.5), Noise(1.0)]


@pytest.mark.parametrize("noise", NOISES)
def test_the_table_draws_the_rounded_distribution_to_within_its_charge(noise: Noise) -> None:
    drawn = distribution(noise)
    assert sum(drawn) == 1
    columns = drawn[: 2 * noise.table.center + 1]
    assert columns == columns[::-1], "as much on both sides"
    h = noise.step

    def below(edge: float) -> float:  # of the continuous noise
        return NORMAL.cdf(edge / noise.sigma)

    apart = sum(
        abs(
            float(p) - (below((k - noise.table.center + 0.5) * h) - below((k - noise.table.center - 0.5) * h))
        )
        for k, p in enumerate(drawn[: 2 * noise.table.center + 1])
    )
    assert not any(drawn[2 * noise.table.center + 1 :])
    last = (noise.table.center + 0.5) * h
    assert (apart + (below(-last) + 1 - below(last))) / 2 <= noise.table.charge <= 2.1e-9
    assert noise.charge(784) == 784 * noise.table.charge


@pytest.mark.parametrize("noise", NOISES)
def test_moments(noise: Noise) -> None:
    drawn, center = distribution(noise), noise.table.center
    places = [k - center for k in range(len(drawn))]
    assert abs(sum(k * p for k, p in zip(places, drawn, strict=True))) < 1e-12
    variance = float(sum(k * k * p for k, p in zip(places, drawn, strict=True))) * noise.step**2
    expected = noise.sigma**2 + noise.step**2 / 12  # rounding adds that of a cell (Sheppard)
    assert math.isclose(variance, expected, rel_tol=1e-6)
    assert noise.steps >= 2
    assert noise.sigma / noise.step >= 100


def test_radius_and_probability_are_each_other_s_inverse() -> None:
    noise = Noise(0.5)
    for p in (0.500001, 0.7, 0.95, 0.9999):
        assert math.isclose(noise.probability(noise.radius(p)), p, rel_tol=1e-9)
    assert [noise.radius(p) for p in (0.0, 0.3, 0.5, math.nan)] == [0, 0, 0, 0]
    assert math.isclose(noise.radius(0.8), 0.5 * 0.8416212335729143)


def test_images_on_the_grid_are_whole_numbers_of_steps() -> None:
    noise, levels = Noise(0.25), torch.arange(256)
    for x in (levels / 255, levels * (1 / 255), levels.double() / 255):
        assert torch.equal(noise.levels(x), (levels * noise.steps).int())
    # without noise, a copy is the image as 8-bit images are read
    assert torch.equal((noise.levels(levels / 255).double() * noise.step).float(), levels / 255)


@pytest.mark.parametrize("value", [0.5, 1.2 / 255, -1 / 255, 256 / 255, math.nan])
def test_images_off_the_grid_are_refused_unless_they_may_be_rounded(value: float) -> None:
    x = torch.full((1, 3), value)
    refuses("grid of 1/255", Noise(0.25).levels, x)
    if value == 0.5:
        assert Noise(0.25).levels(x, sound=False).unique().item() == 255


@pytest.mark.parametrize("sigma", [0, -0.5, math.nan, True, "1", math.inf, 11, 1e-5])
def test_sigma_out_of_range(sigma: Any) -> None:
    refuses("sigma", Noise, sigma)
