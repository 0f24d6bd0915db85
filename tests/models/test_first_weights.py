"""First weights follow the law of the published code, layer by layer; so do constants of data sets."""

import math

import pytest
import torch
from torch import nn

from fastadv import models
from tests.vision import models as torchvision_models


@pytest.mark.parametrize(
    ("name", "arguments"), [("wide_resnet", {"depth": 10, "widen_factor": 3}), ("resnet18", {"width": 8})]
)
def test_convolutions_are_normal_with_the_deviation_of_he_by_what_leaves_them(name, arguments) -> None:
    """The fan is the outgoing one; other layers begin as usual."""
    model, ratios = models.create(name, **arguments), []
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        weight, area = layer.weight.detach(), math.prod(layer.kernel_size)
        count = area * layer.out_channels
        ratios.append(layer.out_channels / layer.in_channels)
        deviation = 5 / (2 * weight.numel()) ** 0.5  # five times that of a measured deviation
        assert float(weight.std()) == pytest.approx((2 / count) ** 0.5, rel=deviation)
        if weight.numel() > 1000:  # a uniform law ends at 1.73 deviations
            assert float(weight.abs().max()) > 2.5 * (2 / count) ** 0.5
    assert max(ratios) >= 2  # the two fans are told apart
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5  # torch's own
            assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
            assert bool(layer.bias.any()) == (name == "resnet18")


def test_first_weights_of_a_preact_resnet_are_torchs_own() -> None:
    """As in the code of Wong et al., which draws none itself."""
    model = models.create("preact_resnet18", width=8)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            bound = (layer.in_channels * math.prod(layer.kernel_size)) ** -0.5
            weight = layer.weight.detach()
            assert 0.9 * bound < float(weight.abs().max()) <= bound
            assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=5 / (2 * weight.numel()) ** 0.5)


def test_constants_of_data_sets_are_the_published_ones() -> None:
    """Those of CIFAR in bytes: the code of Zagoruyko & Komodakis 2016, of ImageNet: torchvision's presets."""
    assert models.STATISTICS["cifar10"] == ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
    assert models.STATISTICS["cifar100"] == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    in_bytes = {
        "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
        "cifar100": ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    }
    for name, rows in in_bytes.items():
        for ours, published in zip(models.STATISTICS[name], rows, strict=True):
            given = torch.tensor(published) / 255
            torch.testing.assert_close(torch.tensor(ours), given, rtol=0, atol=0.1 / 255)
    preset = torchvision_models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert models.STATISTICS["imagenet"] == (tuple(preset.mean), tuple(preset.std))
