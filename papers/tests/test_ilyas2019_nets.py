"""VGG, DenseNet and Inception: the published numbers of parameters, and forward passes by another hand."""

from typing import Any

import pytest
import torch
from torch import nn

from fastadv._torchvision import models as torchvision_models
from papers.ilyas2019 import nets
from tests.models.test_published_networks import batch, moved


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "arguments", "count"),
    [
        (nets.VGG, {}, 14_728_266),
        # torchvision's without their three linear layers, and with one of 512 x 10
        (nets.VGG, {"depth": 11}, 132_868_840 - 123_642_856 + 5_130),
        # 0.8 M in Huang et al. 2017, table 2; 15.3 M for depth 250 and growth 24
        (nets.DenseNet, {}, 769_162),
        (nets.DenseNet, {"depth": 250, "growth": 24}, 15_324_406),
        # Zhang et al. 2017, table 1, and the scales of BatchNorm, one for each of 1,712 channels
        (nets.Inception, {}, 1_649_402 + 1_712),
    ],
)
def test_they_have_the_published_numbers_of_parameters(
    make: Any, arguments: dict[str, Any], count: int
) -> None:
    with torch.device("meta"):
        model = make(**arguments)
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(("depth", "growth"), [(10, 4), (22, 12)])
def test_densenet_is_torchvisions_but_for_the_stem(depth: int, growth: int) -> None:
    model = moved(nets.DenseNet(depth=depth, growth=growth))
    other = torchvision_models.DenseNet(growth, ((depth - 4) // 6,) * 3, 2 * growth, num_classes=10)
    other.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    other.features.norm0 = other.features.relu0 = other.features.pool0 = nn.Identity()
    weights = model.state_dict().values()
    other.load_state_dict(dict(zip(other.state_dict(), weights, strict=True)))
    x = batch(2, 3, 20, 12)
    torch.testing.assert_close(model(x), other.double().eval()(x))
