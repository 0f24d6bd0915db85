"""VGG, DenseNet and Inception: published sizes, torchvision's forward passes, twins."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastadv as fa
from fastadv import models
from fastadv._torchvision import models as torchvision_models
from fastadv.errors import InputError


def moved(model: nn.Module) -> nn.Module:
    """The model in eval mode and float64, its BatchNorms with statistics that are not trivial."""
    generator = torch.Generator().manual_seed(1)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.uniform_(0.5, 1.5, generator=generator)
            for tensor in (part.bias, part.running_mean):
                tensor.data.normal_(0, 0.3, generator=generator)
    return model.double().eval()


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("vgg", {}, 14_728_266),
        # torchvision's without their three linear layers, and with one of 512 x 10
        ("vgg", {"depth": 11}, 132_868_840 - 123_642_856 + 5_130),
        ("vgg", {"depth": 13}, 133_053_736 - 123_642_856 + 5_130),
        ("vgg", {"depth": 19}, 143_678_248 - 123_642_856 + 5_130),
        # 0.8 M in Huang et al. 2017, table 2; 15.3 M for depth 250 and growth 24
        ("densenet", {}, 769_162),
        ("densenet", {"depth": 250, "growth": 24}, 15_324_406),
        # Zhang et al. 2017, table 1, and the scales of BatchNorm, one for each of 1,712 channels
        ("inception", {}, 1_649_402 + 1_712),
    ],
)
def test_they_have_the_published_numbers_of_parameters(
    name: str, arguments: dict[str, Any], count: int
) -> None:
    with torch.device("meta"):
        model = models.create(name, seed=None, **arguments)
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.slow
def test_vgg_has_torchvisions_convolutions() -> None:
    model = moved(models.create("vgg", depth=11))
    other = torchvision_models.vgg11_bn(init_weights=False).features.double().eval()
    other.load_state_dict(model.features.state_dict())
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(x), model.linear(other(x).flatten(1)))


@pytest.mark.parametrize(("depth", "growth"), [(10, 4), (22, 12)])
def test_densenet_is_torchvisions_but_for_the_stem(depth: int, growth: int) -> None:
    model = moved(models.create("densenet", depth=depth, growth=growth))
    other = torchvision_models.DenseNet(growth, ((depth - 4) // 6,) * 3, 2 * growth, num_classes=10)
    other.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    other.features.norm0 = other.features.relu0 = other.features.pool0 = nn.Identity()
    weights = model.state_dict().values()
    other.load_state_dict(dict(zip(other.state_dict(), weights, strict=True)))
    x = torch.rand(2, 3, 20, 12, dtype=torch.float64)
    torch.testing.assert_close(model(x), other.double().eval()(x))


def test_inception_puts_two_branches_beside_each_other() -> None:
    # Zhang et al. 2017, figure 3; "down" halves the image
    blocks = [
        "32+32",
        "32+48",
        "down 80",
        "112+48",
        "96+64",
        "80+80",
        "48+96",
        "down 96",
        "176+160",
        "176+160",
    ]
    model = moved(models.create("inception"))
    x = torch.rand(2, 3, 20, 13, dtype=torch.float64)
    weights = iter(model.state_dict().values())

    def convolution(x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel, scale, shift, mean, variance, _ = (next(weights) for _ in range(6))
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return F.batch_norm(x, mean, variance, scale, shift).relu()

    out = convolution(x)
    assert out.shape[1] == 96
    for block in blocks:
        if block.startswith("down"):
            left, right = convolution(out, 2), F.max_pool2d(out, 3, 2, 1)
            assert left.shape[1] == int(block.split()[1])
        else:
            left, right = convolution(out), convolution(out)
            assert f"{left.shape[1]}+{right.shape[1]}" == block
        out = torch.cat([left, right], 1)
    expected = F.linear(out.mean((2, 3)), next(weights), next(weights))
    torch.testing.assert_close(model(x), expected)


SMALL: dict[str, dict[str, int]] = {
    "vgg": {"depth": 11, "width": 2},
    "densenet": {"depth": 10, "growth": 2},
    "inception": {"width": 2},
}


@pytest.mark.parametrize("name", SMALL)
def test_the_search_twin_equals_the_model(name: str) -> None:
    model = moved(models.create(name, **SMALL[name]))
    x, y = torch.rand(4, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 2, 3, 4])
    frozen = fa.freeze(model)
    torch.testing.assert_close(frozen(x), model(x), rtol=1e-9, atol=1e-9)
    # of DenseNet's only those between the two convolutions of a layer follow a convolution alone
    folded = {"vgg": 8, "densenet": 3, "inception": 19}[name]
    assert f"folded {folded} BatchNorm" in frozen.notes
    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(model(given), y, reduction="sum"), given)
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SMALL)
def test_train_mode_and_small_images_work(name: str) -> None:
    model = models.create(name, shape=(1, 8, 8), **SMALL[name])
    model.train()(torch.rand(4, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_depths_that_there_are_not() -> None:
    with pytest.raises(InputError, match="depth: expected one of 11, 13, 16, 19, got 12"):
        models.create("vgg", depth=12)
    with pytest.raises(InputError, match=r"depth: expected 6 n \+ 4"):
        models.create("densenet", depth=12)
    with pytest.raises(InputError, match="growth: expected an integer >= 1"):
        models.create("densenet", growth=0)
