"""Classifiers of torchvision, timm and Hugging Face as models of images in [0, 1]."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastadv._checks import knowing, warn
from fastadv.errors import InputError
from fastadv.models import processor as processors
from fastadv.models._common import Numbers, numbers
from fastadv.models.processor import ADVICE, Processor
from fastadv.models.wrappers import Normalized

torch.fx.wrap("logits_of")

# What models of two towers have, in open_clip and in Hugging Face
_TOWERS = (("encode_image", "encode_text"), ("get_image_features", "get_text_features"))
_ZERO_SHOT = (
    "of images and texts make one with fa.models.zero_shot(model, tokenizer, classes), which has a processor"
)


@knowing
def adapt(
    model: nn.Module, preprocessing: Any = None, *, size: Literal["native"] | None = None,
    mean: Numbers | None = None, std: Numbers | None = None,
) -> Normalized | nn.Sequential:  # fmt: skip
    """Return a model of normalized images as one that takes x in [0, 1] and returns logits.

    The constants come from `mean` and `std`, else from `preprocessing`, else from the `pretrained_cfg` or
    `default_cfg` that a timm model carries. Those belong to timm's published weights: give your own where you
    trained with others. A warning says where such a model has another number of classes.

    Images must have the size that the model wants, unless size is "native": then `preprocessing` is done
    inside the model, with its resize and crop, and the threat lives at the size of the images. A batch has
    images of one size: group those of several, or attack them one at a time. What the crop leaves out has
    gradient zero, and a change there changes no logits. Values are those of 8-bit images, but for the
    rounding: where bicubic interpolation leaves [0, 1], they are clamped and have gradient zero.

        adapt(torchvision.models.resnet50(weights=w), w)                # w: ResNet50_Weights.IMAGENET1K_V2
        adapt(timm.create_model("convnext_tiny", pretrained=True))
        adapt(AutoModelForImageClassification.from_pretrained(name), AutoImageProcessor.from_pretrained(name))
        adapt(timm.create_model("vit_base_patch16_clip_224", pretrained=True), size="native")

    Args:
        model: of [B, C, H, W], whose output is the logits [B, K] or an object that holds them as `.logits`.
            It is held, not copied, and keeps its mode.
        preprocessing: a member of one of torchvision's weights enums or its transforms, a `Compose` of
            torchvision's Resize, CenterCrop, Normalize and conversions, as open_clip has it, a Hugging Face
            image processor, or the configuration of one of these, of timm or of open_clip as a mapping.
        size: "native" puts resize and crop into the model, too; None: images have the model's size.
        mean: a number, or one for each channel, in the units of x.
        std: a number > 0, or one for each channel, in the units of x.

    Returns:
        A `Normalized`; with size="native" a module that takes images of any size.

    Raises:
        InputError: the constants are not known, or the preprocessing is one that a mean and a deviation
            cannot express, such as exchanged channels, or with size="native" a resize, a crop and these; when
            the model is called, its output has no logits.
        MissingExtraError: size="native" needs torchvision, which is not installed, or a configuration needs
            timm, open_clip or transformers, which is not either.

    Example:
        >>> import torch, fastadv as fa
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> model = fa.models.adapt(net, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        >>> tuple(model(torch.rand(4, 3, 8, 8)).shape)
        (4, 10)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"adapt: expected a torch.nn.Module, got {type(model).__name__}; {ADVICE}")
    if any(hasattr(model, image) and hasattr(model, text) for image, text in _TOWERS):
        raise InputError(f"adapt: expected a classifier, got {type(model).__name__}; {_ZERO_SHOT}")
    if size not in (None, "native") or (size is not None and mean is not None):
        got = f"{size!r}" if mean is None else f"{size!r} with mean and std"
        raise InputError(f'size: expected None, or "native" with preprocessing, got {got}; resize x yourself')
    if (mean is None) != (std is None) or (mean is not None and preprocessing is not None):
        raise InputError("adapt: expected preprocessing, or mean and std; leave the others out")
    if mean is not None:
        if max(means := numbers("mean", mean), default=0) > 1:
            raise InputError(
                f"mean: expected that of images in [0, 1], got {mean}; divide mean and std by 255"
            )
        return Normalized(Logits(model), means, numbers("std", std))
    source = carried(model) if preprocessing is None else preprocessing
    if source is None:
        raise InputError(
            f"adapt: expected the normalization of images, which {type(model).__name__} does not state; pass "
            f"torchvision's weights enum or Hugging Face's image processor, or {ADVICE}"
        )
    config = getattr(model, "config", None)
    classes = getattr(model, "num_classes", None) or getattr(config, "num_labels", None)
    stated = None if preprocessing is not None else processors.settings_of(source).get("num_classes")
    if classes and stated and classes != stated:
        warn(
            f"adapt: expected a model of {stated} classes, as the weights have whose mean and std it names, "
            f"got one of {classes}; if it was trained with others, pass mean= and std="
        )
    if size == "native":
        return nn.Sequential(Processor(processors.processing_of(source)), Logits(model))
    return Normalized(Logits(model), *processors.constants(source))


def carried(model: nn.Module) -> Any:
    """Return timm's configuration, which the model or its Hugging Face configuration holds, or None."""
    holders = (model, getattr(model, "config", None))
    held = [getattr(holder, name, None) for holder in holders for name in ("pretrained_cfg", "default_cfg")]
    return next((settings for settings in held if settings), None)


class Logits(nn.Module):
    """The logits of a model, wherever its output holds them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.model(x))


def logits_of(output: Any) -> Tensor:
    """Return the output itself if it is a tensor, else its `logits`; InputError where there are none."""
    # a trace by torch.fx turns the outputs of Hugging Face, which are dictionaries too, into plain ones
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        if hasattr(output, "logits_per_image") or hasattr(output, "image_embeds"):
            raise InputError(f"model: expected logits [B, K], got {type(output).__name__}; {_ZERO_SHOT}")
        raise InputError(
            f"model: expected logits [B, K], or an output with `.logits`, got {type(output).__name__}; "
            "adapt a model that returns them"
        )
    return logits
