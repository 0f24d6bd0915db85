"""Published networks: sizes, forward passes by hand and by torchvision, names of weights, strides, twins."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastadv import models
from tests.vision import models as torchvision_models

SMALL = {
    "resnet18": {"width": 4},
    "resnet50": {"width": 2},
    "preact_resnet18": {"width": 4},
    "wide_resnet": {"depth": 10, "widen_factor": 1},
}


def moved(model):
    """The model in eval mode and float64, its BatchNorms with maps and statistics that are not trivial."""
    generator = torch.Generator().manual_seed(1)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (part.bias, part.running_mean):
                tensor.data.normal_(0, 0.3, generator=generator)
    return model.double().eval()  # in float64 rounding takes no activation across the kink of its ReLU


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        # half the width: half the stem, BatchNorms and inputs of the last layer, a quarter of the rest
        ("resnet18", {"width": 32}, (1_728 + 9_600 + 5_120) // 2 + 11_157_504 // 4 + 10),
        ("resnet50", {"width": 32}, (1_728 + 53_120 + 20_480) // 2 + 23_445_504 // 4 + 10),
        # of BatchNorm's channels, two numbers each, it has fewer than ResNet-18: none in the stem (64) and in
        # shortcuts (896), 448 less before the first convolutions of blocks, but 512 before the mean
        ("preact_resnet18", {}, 11_173_962 - 2 * (64 + 896 + 448 - 512)),
        # 36.5 M and 46.2 M in Zagoruyko & Komodakis 2016 and papers since
        ("wrn_28_10", {}, 36_479_194),
        ("wrn_34_10", {}, 46_160_474),
        ("wide_resnet", {"depth": 70, "widen_factor": 16}, 266_796_506),
    ],
)
def test_they_have_the_published_numbers_of_parameters(name, arguments, count):
    with torch.device("meta"):
        model = models.create(name, seed=None, **arguments)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def normalized(x, weights, name):
    mean, var, scale, shift = (
        weights[f"{name}.{each}"][:, None, None] for each in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


PREACT = ("preact_resnet18", "layer{}.{}", 4, "shortcut.0", ("bn", "linear"))
WIDE = ("wide_resnet", "block{}.layer.{}", 3, "convShortcut", ("bn1", "fc"))


@pytest.mark.parametrize(
    ("layout", "arguments"),
    [
        (PREACT, {}),
        (PREACT, {"shortcut": "raw", "final_norm": False}),
        (PREACT, {"shortcut": "raw_3x3"}),
        (PREACT, {"shortcut": "raw_3x3", "padding": "same", "activation": "silu"}),
        (WIDE, {"depth": 16, "widen_factor": 1}),
        (WIDE, {"depth": 16, "widen_factor": 2}),
        (WIDE, {"depth": 16, "padding": "same", "activation": "silu"}),
    ],
)
def test_preactivated_nets_by_hand_from_the_published_names(layout, arguments):
    """He et al. 2016b, figure 4e, and what published code does otherwise."""
    name, block, stages, shortcut, (norm, linear) = layout
    model, image = moved(models.create(name, **(SMALL[name] | arguments))), torch.rand(3, 3, 40, 24).double()
    weights = model.state_dict()
    act = F.silu if "activation" in arguments else F.relu

    def halved(x, kernel, stride):
        """In TensorFlow, one row of zeros is needed where a stride of 2 meets an even size: at the end."""
        around = 0 if kernel.shape[-1] == 1 else 1
        if around and stride == 2 and "padding" in arguments:
            x = torch.cat([x, torch.zeros_like(x[:, :, :1])], 2)
            return F.conv2d(torch.cat([x, torch.zeros_like(x[..., :1])], 3), kernel, stride=2)
        return F.conv2d(x, kernel, stride=stride, padding=around)

    x = F.conv2d(image, weights["conv1.weight"], padding=1)
    for stage in range(stages):
        for place in (0, 1):
            part, stride = block.format(stage + 1, place), 2 if stage and not place else 1
            active = act(normalized(x, weights, f"{part}.bn1"))
            inner = halved(active, weights[f"{part}.conv1.weight"], stride)
            inner = act(normalized(inner, weights, f"{part}.bn2"))
            inner = F.conv2d(inner, weights[f"{part}.conv2.weight"], padding=1)
            beside = x if "shortcut" in arguments else active
            key = f"{part}.{shortcut}.weight"
            x = inner + (halved(beside, weights[key], stride) if key in weights else x)
    if f"{norm}.weight" in weights:
        x = act(normalized(x, weights, norm))
    assert (f"{norm}.weight" in weights) == arguments.get("final_norm", True)
    by_hand = x.flatten(2).mean(2) @ weights[f"{linear}.weight"].T + weights[f"{linear}.bias"]
    torch.testing.assert_close(model(image), by_hand)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_are_torchvisions_but_for_the_stem(name):
    model = models.create(name).eval()
    other = getattr(torchvision_models, name)(num_classes=10).eval()
    other.conv1, other.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    other.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(x), other(x))
