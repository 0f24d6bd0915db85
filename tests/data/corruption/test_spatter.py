"""Spatter beside imagecorruptions, and its distances by hand."""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from fastadv.data.corruption import CORRUPTIONS, SEVERITIES
from fastadv.data.corruption.card import Draws
from fastadv.data.corruption.spatter import distances, spatter


def pictures(*size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize(("channels", "more"), [(3, 0), (1, 0), (3, 0.35)])  # the last overflows bytes
@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_same_layer_gives_the_oracles_image(severity, channels, more):
    oracle, pillow = pytest.importorskip("imagecorruptions.corruptions"), pytest.importorskip("PIL.Image")
    x, draws = pictures(224, 198, channels, seed=severity), Draws(severity, torch.tensor([7]))
    (mean, *others), *rest = CORRUPTIONS["spatter"].of("imagenet", severity)
    unit = torch.from_numpy(x).permute(2, 0, 1)[None] / 255
    y = spatter(unit, ((mean + more, *others), *rest), draws)[0].permute(1, 2, 0).clamp(0, 1) * 255
    layer = draws.normal(224, 198)[0].double().numpy()
    with patch("numpy.random.normal", lambda size, loc, scale: layer * scale + loc + more):
        expected = np.asarray(oracle.spatter(pillow.fromarray(x.squeeze()), severity)).reshape(x.shape)
    assert (np.abs(y.numpy() - expected) <= 2).mean() > 0.999
    assert np.abs(expected - x).max() > 40


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
