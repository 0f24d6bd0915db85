"""Classifiers of other packages: where their constants stand, what their outputs are, what is refused."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.models import SmallCNN, adapt
from tests.refusals import refuses
from tests.vision import models as torchvision_models
from tests.zoo.net import module

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net():
    return SmallCNN((3, 8, 8), width=4).eval()


def expected(mean, std):
    return net()((X - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])


class TimmNet(SmallCNN):
    def __init__(self, **configurations):
        super().__init__((3, 8, 8), width=4)
        vars(self).update(configurations)


class Output(dict[str, Tensor]):
    """An output of Hugging Face: a dictionary whose values are attributes too."""

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)


class HuggingFaceNet(nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.net, self.config = net(), config

    def forward(self, pixel_values):
        return Output(logits=self.net(pixel_values))


class Processor:
    def __init__(self, **settings):
        own = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
        vars(self).update(own | {"image_mean": MEAN, "image_std": STD} | settings)

    def preprocess(self):
        raise NotImplementedError


TIMM = {"mean": tuple(MEAN), "std": tuple(STD), "input_size": (3, 224, 224)}


@pytest.mark.parametrize(
    ("model", "preprocessing"),
    [
        (TimmNet(pretrained_cfg=TIMM), None),
        (TimmNet(pretrained_cfg=SimpleNamespace(mean=MEAN, std=STD)), None),
        (TimmNet(pretrained_cfg={"mean": (0.5,), "std": (0.5,)}), TIMM),
        (HuggingFaceNet(SimpleNamespace(pretrained_cfg=TIMM)), None),
        (HuggingFaceNet(), Processor()),
        (HuggingFaceNet(), vars(Processor())),
        (HuggingFaceNet(), {"do_normalize": True, "image_mean": MEAN, "image_std": STD}),
        (HuggingFaceNet(), SimpleNamespace(image_mean=MEAN, image_std=STD)),
        (net(), torchvision_models.ResNet18_Weights.IMAGENET1K_V1),
        (net(), torchvision_models.ResNet18_Weights.IMAGENET1K_V1.transforms()),
    ],
)
def test_the_constants_are_found(model, preprocessing):
    torch.testing.assert_close(adapt(model, preprocessing).eval()(X), expected(MEAN, STD))


@pytest.mark.parametrize("model", [TimmNet(num_classes=5), HuggingFaceNet(SimpleNamespace(num_labels=5))])
def test_other_classes_than_those_of_the_carried_constants_warn(model):
    holder = getattr(model, "config", model)
    holder.pretrained_cfg = TIMM | {"num_classes": 5}
    adapt(model)
    holder.pretrained_cfg = TIMM | {"num_classes": 1000}
    with pytest.warns(UserWarning, match="1000 classes.*got one of 5; .*mean= and std=") as caught:
        torch.testing.assert_close(adapt(model).eval()(X), expected(MEAN, STD))
    assert caught[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        adapt(model, mean=0, std=1)
        adapt(model, TIMM | {"num_classes": 1000})


def test_constants_may_be_given_and_come_before_what_a_model_carries():
    torch.testing.assert_close(adapt(TimmNet(pretrained_cfg=TIMM), mean=0, std=1).eval()(X), net()(X))
    given = adapt(net(), mean=torch.tensor([0.1, 0.2, 0.3]), std=(0.4, 0.5, 0.6)).eval()
    torch.testing.assert_close(given(X), expected([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))


@pytest.mark.parametrize(
    ("settings", "pixels"),
    [
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, lambda x: 2 * x - 1),
        ({"do_normalize": False}, lambda x: x),
        ({"do_normalize": False, "rescale_factor": 1.0}, lambda x: 255 * x),
        ({"image_mean": 0.5, "image_std": 0.25}, lambda x: 4 * x - 2),
    ],
    ids=["twice-as-far", "unit", "bytes", "one-number"],
)
def test_what_a_processor_makes_of_bytes_the_model_sees(settings, pixels):
    adapted = adapt(HuggingFaceNet(), Processor(**settings)).eval()
    torch.testing.assert_close(adapted(X), net()(pixels(X)), rtol=1e-4, atol=1e-5)


def test_outputs_that_hold_logits_are_answered_with_adapt():
    for call in (
        lambda net: fa.attacks.fgsm(net, X, torch.arange(4), fa.Linf(0.1)),
        lambda net: fa.freeze(net)(X),
    ):
        refuses(r"got Output; fastadv\.models\.adapt", call, HuggingFaceNet())
        call(adapt(HuggingFaceNet(), mean=0, std=1))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "which SmallCNN does not state; pass torchvision's weights enum"),
        ({"mean": MEAN}, "preprocessing, or mean and std"),
        ({"mean": MEAN, "std": STD, "preprocessing": TIMM}, "leave the others out"),
        ({"preprocessing": {"mean": MEAN}}, "got dict without"),
        ({"preprocessing": Processor(do_rescale=False)}, "does not say what its model takes"),
        ({"preprocessing": Processor(do_flip_channel_order=True)}, "got one with do_flip_channel_order"),
        ({"preprocessing": Processor(rescale_offset=True, include_top=True)}, "include_top, rescale_offset"),
        ({"preprocessing": Processor(rescale_factor=0)}, "rescale_factor: expected a number in"),
        ({"mean": "cifar10", "std": 1}, "mean: expected a number, or one for each channel, got 'cifar10'"),
        ({"mean": MEAN, "std": [1, 0, 1]}, "std > 0"),
        ({"mean": [0.1, 0.2], "std": [0.1]}, "as many"),
        ({"mean": float("nan"), "std": 1.0}, "finite"),
        ({"mean": (124.0, 116.0, 104.0), "std": 58.0}, "divide mean and std by 255"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_known_is_refused(arguments, match):
    refuses(match, adapt, net(), **arguments)


@pytest.mark.parametrize(
    "output", [lambda self, x: (x, x), lambda self, x: {"features": x}], ids=["tuple", "no-logits"]
)
def test_an_output_without_logits_is_refused_when_it_comes(output):
    refuses(r"expected logits \[B, K\], or an output with `.logits`", adapt(module(output), mean=0, std=1), X)


NUMBERS = [
    tuple, list, np.array, np.float32, torch.tensor, lambda v: torch.tensor(v).view(-1, 1, 1).double(),
    lambda v: [np.float64(one) for one in v], lambda v: [torch.tensor(one) for one in v], lambda v: v[0],
    lambda v: np.float64(v[0]), lambda v: torch.tensor(v[0]), lambda v: np.array(v[0]),
]  # fmt: skip


@pytest.mark.parametrize("kind", NUMBERS)
def test_means_and_deviations_may_be_any_numbers(kind):
    mean, std = kind((0.5, 0.5, 0.5)), kind((0.25, 0.25, 0.25))
    for model in (fa.models.Normalized(nn.Flatten(), mean, std), adapt(nn.Flatten(), mean=mean, std=std)):
        assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
        assert torch.equal(model(X), ((X - 0.5) / 0.25).flatten(1))


@pytest.mark.parametrize("rest", [(6,), (4, 5), (2, 4, 5)])
def test_series_images_and_volumes_are_normalized_by_channel(rest):
    x = torch.rand(2, 3, *rest)
    wanted = torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], 1).flatten(1)
    model = adapt(nn.Flatten(), mean=MEAN, std=STD)
    torch.testing.assert_close(model(x), wanted)
    refuses(r"expected a batch of shape \[B, 3, any", model, x[:, :2])
    assert fa.attacks.fgsm(model, x, torch.zeros(2).long(), fa.Linf(0.1)).x_adv.shape == x.shape


def test_a_sequence_of_transforms_and_a_size_that_is_one_number():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    normal = nn.Sequential(v2.Resize(8), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD))
    for size in (None, "native"):
        torch.testing.assert_close(adapt(net(), normal, size=size).eval()(X), expected(MEAN, STD))
    settings = vars(Processor(size=224))
    refuses("size with .* got 224, .*build it with the class", adapt, nn.Flatten(), settings, size="native")
