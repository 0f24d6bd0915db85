"""Residual networks: published sizes, forward passes by hand, names of published weights, strides, twins."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv import models
from fastadv._torchvision import models as torchvision_models
from fastadv.errors import InputError

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 4},
    "resnet50": {"width": 2},
    "preact_resnet18": {"width": 4},
    "wide_resnet": {"depth": 10, "widen_factor": 1},
}


def small(name: str, **arguments: Any) -> nn.Module:
    """A narrow net whose BatchNorms have affine maps and statistics that are not trivial."""
    model = models.create(name, **(SMALL[name] | arguments))
    generator = torch.Generator().manual_seed(1)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (part.bias, part.running_mean):
                tensor.data.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("resnet18", {}, 11_173_962),
        ("resnet18", {"classes": 100}, 11_220_132),
        # torchvision's 25,557,032 for ImageNet, with a stem of 3x3 instead of 7x7 and ten classes
        ("resnet50", {}, 25_557_032 - 3 * 64 * (49 - 9) - 2049 * 990),
        # of BatchNorm's channels, two numbers each, it has fewer than ResNet-18: none in the stem (64) and in
        # shortcuts (896), 448 less before the first convolutions of blocks, but 512 before the mean
        ("preact_resnet18", {}, 11_173_962 - 2 * (64 + 896 + 448 - 512)),
        # 36.5 M and 46.2 M in Zagoruyko & Komodakis 2016 and papers since
        ("wrn_28_10", {}, 36_479_194),
        ("wrn_34_10", {}, 46_160_474),
        ("wide_resnet", {"depth": 40, "widen_factor": 4}, 8_949_210),
        ("wide_resnet", {"depth": 70, "widen_factor": 16}, 266_796_506),
    ],
)
def test_they_have_the_published_numbers_of_parameters(
    name: str, arguments: dict[str, Any], count: int
) -> None:
    with torch.device("meta"):
        model = models.create(name, seed=None, **arguments)
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, arguments.get("classes", 10))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def normalized(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    mean, var, scale, shift = (
        weights[f"{name}.{each}"][:, None, None] for each in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def preactivated(
    x: Tensor, weights: dict[str, Tensor], blocks: dict[str, int], shortcut: str, end: tuple[str, str]
) -> Tensor:
    """A pre-activation net with ReLU, from He et al. 2016b figure 4e and the names of its weights."""
    x = F.conv2d(x, weights["conv1.weight"], padding=1)
    for name, stride in blocks.items():
        active = normalized(x, weights, f"{name}.bn1").relu()
        inner = F.conv2d(active, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
        inner = normalized(inner, weights, f"{name}.bn2").relu()
        inner = F.conv2d(inner, weights[f"{name}.conv2.weight"], padding=1)
        key = f"{name}.{shortcut}.weight"
        x = inner + (F.conv2d(active, weights[key], stride=stride) if key in weights else x)
    norm, linear = end
    features = normalized(x, weights, norm).relu().flatten(2).mean(2)
    return features @ weights[f"{linear}.weight"].T + weights[f"{linear}.bias"]


def test_preact_resnet_by_hand_from_the_published_names() -> None:
    model, x = small("preact_resnet18"), torch.rand(3, 3, 40, 24)
    blocks = {
        f"layer{stage}.{place}": 1 if stage == 1 or place else 2 for stage in (1, 2, 3, 4) for place in (0, 1)
    }
    by_hand = preactivated(x, model.state_dict(), blocks, "shortcut.0", ("bn", "linear"))
    torch.testing.assert_close(model(x), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("widen_factor", [1, 2])
def test_wide_resnet_by_hand_from_the_published_names(widen_factor: int) -> None:
    model, x = small("wide_resnet", depth=16, widen_factor=widen_factor), torch.rand(3, 3, 40, 24)
    blocks = {
        f"block{stage}.layer.{place}": 1 if stage == 1 or place else 2
        for stage in (1, 2, 3)
        for place in (0, 1)
    }
    by_hand = preactivated(x, model.state_dict(), blocks, "convShortcut", ("bn1", "fc"))
    torch.testing.assert_close(model(x), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_stem_keeps_the_size_or_halves_it(name: str) -> None:
    kept, halved = small(name), small(name, stem_stride=2)
    halved.load_state_dict(kept.state_dict())
    sizes = []
    for model in (kept, halved):
        model.conv1.register_forward_hook(lambda part, given, out: sizes.append(tuple(out.shape[2:])))
    x = torch.rand(2, 3, 64, 64)
    assert not torch.equal(kept(x), halved(x))
    assert sizes == [(64, 64), (32, 32)]
    with pytest.raises(InputError, match="stem_stride: expected an integer >= 1, got 0"):
        small(name, stem_stride=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preact_resnet18", "wide_resnet"])
def test_the_activation_is_the_one_that_is_named(name: str) -> None:
    layers = {
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "silu": nn.SiLU,
        "gelu": nn.GELU,
        "softplus": nn.Softplus,
    }
    x = torch.rand(2, 3, 16, 16)
    logits = []
    for activation, layer in layers.items():
        model = small(name, activation=activation)
        found = {type(part) for part in model.modules()} & set(layers.values())
        assert found == {layer}
        logits.append(model(x))
    assert all(not torch.allclose(a, b) for i, a in enumerate(logits) for b in logits[:i])
    with pytest.raises(InputError, match=r"activation: expected one of relu, .*, got 'swish'"):
        small(name, activation="swish")


@pytest.mark.parametrize("depth", [4, 27, 29])
def test_a_depth_that_gives_no_whole_blocks_is_refused(depth: int) -> None:
    with pytest.raises(InputError, match="depth: expected"):
        models.create("wide_resnet", depth=depth)
    with pytest.raises(InputError, match="widen_factor: expected an integer >= 1"):
        models.create("wide_resnet", widen_factor=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_narrow_resnet_is_the_wide_one_with_fewer_channels(name: str) -> None:
    narrow = small(name).state_dict()
    with torch.device("meta"):
        wide = models.create(name, seed=None).state_dict()
    assert wide.keys() == narrow.keys()
    less = 64 // SMALL[name]["width"]
    for key, tensor in narrow.items():
        sizes = [size // less if size >= 64 else size for size in wide[key].shape]
        assert list(tensor.shape) == sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_are_torchvisions_but_for_the_stem(name: str) -> None:
    model = models.create(name).eval()
    other = getattr(torchvision_models, name)(num_classes=10).eval()
    other.conv1, other.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    other.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(x), other(x))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "normalize"), [*((name, None) for name in SMALL), ("resnet18", "cifar10")])
def test_the_search_twin_folds_and_equals_the_model(name: str, normalize: str | None) -> None:
    model = small(name)
    if normalize is not None:
        model = models.Normalized(model, *models.STATISTICS[normalize]).eval()
    # in float64, where rounding does not take an activation across the kink of its ReLU
    model = model.double()
    x, y = torch.rand(4, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 2, 3, 4])
    frozen = fa.freeze(model)
    torch.testing.assert_close(frozen(x), model(x), rtol=1e-9, atol=1e-9)
    # resnets: all; the others: the second of each block, whose input is a convolution's output alone
    folded = {"resnet18": 20, "resnet50": 53, "preact_resnet18": 8, "wide_resnet": 3}[name]
    assert f"folded {folded} BatchNorm" in frozen.notes
    assert "channels-last" in frozen.notes
    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(model(given), y, reduction="sum"), given)
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_channels_last_and_train_mode_work(name: str) -> None:
    # in float64: fifty layers add up the rounding of float32
    model, x = small(name).double(), torch.rand(4, 3, 32, 32, dtype=torch.float64)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), expected)
    model.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not torch.allclose(model.eval()(x), expected)  # the running statistics have moved
