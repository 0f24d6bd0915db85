"""Spatter: its distances by hand, and no liquid."""

import pytest
import torch

from fastadv.data.corruption import CORRUPTIONS, SEVERITIES
from fastadv.data.corruption.card import Draws
from fastadv.data.corruption.spatter import distances, spatter


def test_distances_from_a_point_are_sums_of_steps():
    edges = torch.zeros(1, 1, 40, 36)
    edges[..., 5, 30] = 1
    lengths = {(0, 0): 0, (3, 0): 3, (2, 2): 2.8, (2, 1): 2.1969, (4, 7): 3 * 2.1969 + 1.4, (34, 1): 20}
    away = {(down, left): distances(edges)[0, 0, 5 + down, 30 - left].item() for down, left in lengths}
    assert away == pytest.approx(lengths, abs=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_layer_without_liquid_leaves_the_image(severity):
    noise, _, *others = CORRUPTIONS["spatter"].of("cifar", severity)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(spatter(x, (noise, 5.0, *others), Draws(0, torch.arange(2))), x)
