"""VGG, DenseNet and Inception: the published numbers of parameters, and forward passes by another hand."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


@pytest.mark.slow
def test_vgg_has_torchvisions_convolutions() -> None:
    model = moved(nets.VGG(depth=11))
    other = torchvision_models.vgg11_bn(init_weights=False).features.double().eval()
    other.load_state_dict(model.features.state_dict())
    x = batch(2, 3, 32, 32)
    torch.testing.assert_close(model(x), model.linear(other(x).flatten(1)))


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


# Zhang et al. 2017, figure 3; "down" halves the image
INCEPTION = "32+32, 32+48, down 80, 112+48, 96+64, 80+80, 48+96, down 96, 176+160, 176+160"


def test_inception_puts_two_branches_beside_each_other() -> None:
    model, x = moved(nets.Inception()), batch(2, 3, 20, 13)
    weights: Iterator[Tensor] = iter(model.state_dict().values())

    def convolution(x: Tensor, stride: int = 1) -> Tensor:
        kernel, scale, shift, mean, variance, _ = (next(weights) for _ in range(6))
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return F.batch_norm(x, mean, variance, scale, shift).relu()

    out = convolution(x)
    assert out.shape[1] == 96
    for block in INCEPTION.split(", "):
        if block.startswith("down"):
            left, right = convolution(out, 2), F.max_pool2d(out, 3, 2, 1)
            assert left.shape[1] == int(block.split()[1])
        else:
            left, right = convolution(out), convolution(out)
            assert f"{left.shape[1]}+{right.shape[1]}" == block
        out = torch.cat([left, right], 1)
    expected = F.linear(out.mean((2, 3)), next(weights), next(weights))
    torch.testing.assert_close(model(x), expected)
