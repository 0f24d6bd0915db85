"""Models of torchvision, timm and Hugging Face with random weights; skipped where one is not installed."""

import copy
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

import fastadv as fa
from tests.vision import models as torchvision

from ..net import Net

HOW = "pip install 'fastadv[zoo]'"


@torch.no_grad()
def settle(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The model with weights, also those near zero, that let gradients through, and its own statistics."""
    for weight in model.parameters():
        if weight.numel() > 1 and weight.abs().max() < 1e-3:
            weight.uniform_(0.5, 1.0) if weight.ndim == 1 else nn.init.normal_(weight, 0, 0.1)
    norms = [part for part in model.modules() if isinstance(part, _NormBase)]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
    model.train()(torch.rand(8, *shape))
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
        # a channel that was silent in these images would drown the others in the next
        part.running_var.clamp_(min=float(part.running_var.mean()) / 4 + 1e-3)
    return model


def net(name: str, builder: Callable[[], nn.Module], size: int) -> Net:
    shape = (3, size, size)

    @lru_cache(maxsize=1)
    def settled() -> tuple[nn.Module, Tensor]:
        return settle(builder(), shape), torch.get_rng_state()

    def copied() -> nn.Module:
        model, state = settled()
        torch.set_rng_state(state)  # from which statistics are drawn next
        return copy.deepcopy(model)

    return Net(name, copied, shape=shape, batches=(1, 4))


def timm_model(name: str, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm", reason=HOW)
    return timm.create_model(name, num_classes=10, **options)


def hugging_face_model(name: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason=HOW)
    configuration = getattr(transformers, f"{name}Config")(num_labels=10, **options)
    return fa.models.adapt(
        getattr(transformers, f"{name}ForImageClassification")(configuration), mean=0.5, std=0.3
    )


def torchvision_model(name: str, **options: Any) -> nn.Module:
    return getattr(torchvision, name)(num_classes=10, **options)


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip

TORCHVISION = {"resnet18": (32, {}), "mobilenet_v3_small": (32, {}), "shufflenet_v2_x0_5": (32, {})}

TIMM = {
    "resnet10t": (64, {}),
    "test_efficientnet": (32, {}),
    "ghostnet_050": (32, {}),
    "nf_regnet_b0": (32, {}),
    "test_byobnet": (32, {}),
    "test_convnext": (32, {}),
    "test_maxvit": (64, {"img_size": 64}),
    "efficientvit_b0": (64, {}),
    "test_vit": (32, {"img_size": 32}),
    "resmlp_12_224": (32, {"img_size": 32}),
    "swin_tiny_patch4_window7_224": (
        32,
        {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 2)},
    ),
}

HUGGING_FACE = {
    "ViT": (32, SMALL),
    "Beit": (32, SMALL),
    "ConvNext": (32, {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}),
    "MobileNetV1": (32, {"image_size": 32, "depth_multiplier": 0.25}),
    "Segformer": (32, {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "decoder_hidden_size": 16}),
}  # fmt: skip

FOREIGN = [
    net(f"{library}_{name}", partial(build, name, **options), size)
    for library, build, named in (
        ("torchvision", torchvision_model, TORCHVISION),
        ("timm", timm_model, TIMM),
        ("hugging_face", hugging_face_model, HUGGING_FACE),
    )
    for name, (size, options) in named.items()
]
