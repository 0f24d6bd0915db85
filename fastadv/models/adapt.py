"""Classifiers of torchvision, timm and Hugging Face as models of images in [0, 1]."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._checks import check_share, warn
from fastadv.errors import InputError
from fastadv.models.wrappers import Normalized

torch.fx.wrap("logits_of")

# Steps that a mean and a deviation express, or that images in [0, 1] of the model's size have behind them
_STEPS = ("center_crop", "convert_rgb", "normalize", "pad", "reduce_labels", "rescale", "resize")
_KNOWN_STEPS = {f"do_{step}" for step in _STEPS}
# other settings of image processors that change the values of pixels, each in its own way
_STRANGE = ("include_top", "rescale_offset")
_READ = ("mean", "std", "num_classes", "image_mean", "image_std", "rescale_factor", *_STRANGE)

_ADVICE = "pass mean= and std= for images in [0, 1] (mean=0, std=1 if the model normalizes them itself)"


def adapt(
    model: nn.Module, preprocessing: Any = None, *, mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
) -> Normalized:  # fmt: skip
    """Return a model of normalized images as one that takes x in [0, 1] and returns logits.

    The constants come from `mean` and `std`, else from `preprocessing`, else from the `pretrained_cfg` or
    `default_cfg` that a timm model carries. Those belong to timm's published weights: give your own where you
    trained with others. A warning says where such a model has another number of classes. Images must have
    the size that the model wants: resize and crop before the attack.

        adapt(torchvision.models.resnet50(weights=w), w)                # w: ResNet50_Weights.IMAGENET1K_V2
        adapt(timm.create_model("convnext_tiny", pretrained=True))
        adapt(AutoModelForImageClassification.from_pretrained(name), AutoImageProcessor.from_pretrained(name))

    Args:
        model: of [B, C, H, W], whose output is the logits [B, K] or an object that holds them as `.logits`.
            It is held, not copied, and keeps its mode.
        preprocessing: a member of one of torchvision's weights enums or its transforms, a Hugging Face image
            processor, or the configuration of one of these or of timm as a mapping.
        mean: a number, or one for each channel, in the units of x.
        std: a number > 0, or one for each channel, in the units of x.

    Returns:
        A `Normalized`.

    Raises:
        InputError: the constants are not known, or the preprocessing is one that a mean and a deviation
            cannot express, such as exchanged channels; when the model is called, its output has no logits.

    Example:
        >>> import torch, fastadv as fa
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> model = fa.models.adapt(net, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        >>> tuple(model(torch.rand(4, 3, 8, 8)).shape)
        (4, 10)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"adapt: expected a torch.nn.Module, got {type(model).__name__}; {_ADVICE}")
    if (mean is None) != (std is None) or (mean is not None and preprocessing is not None):
        raise InputError("adapt: expected preprocessing, or mean and std; leave the others out")
    if mean is not None:
        if max(means := _numbers("mean", mean), default=0) > 1:
            raise InputError(
                f"mean: expected that of images in [0, 1], got {mean}; divide mean and std by 255"
            )
        return Normalized(Logits(model), means, _numbers("std", std))
    source = carried(model) if preprocessing is None else preprocessing
    if source is None:
        raise InputError(
            f"adapt: expected the normalization of images, which {type(model).__name__} does not state; pass "
            f"torchvision's weights enum or Hugging Face's image processor, or {_ADVICE}"
        )
    config = getattr(model, "config", None)
    classes = getattr(model, "num_classes", None) or getattr(config, "num_labels", None)
    stated = None if preprocessing is not None else _settings(source).get("num_classes")
    if classes and stated and classes != stated:
        warn(
            f"adapt: expected a model of {stated} classes, as the weights have whose mean and std it names, "
            f"got one of {classes}; if it was trained with others, pass mean= and std="
        )
    return Normalized(Logits(model), *_constants(source))


def carried(model: nn.Module) -> Any:
    """Return timm's configuration, which the model or its Hugging Face configuration holds, or None."""
    holders = (model, getattr(model, "config", None))
    held = [getattr(holder, name, None) for holder in holders for name in ("pretrained_cfg", "default_cfg")]
    return next((settings for settings in held if settings), None)


def _constants(source: Any) -> tuple[list[float], list[float]]:
    if callable(transforms := getattr(source, "transforms", None)):  # a member of a weights enum
        source = transforms()
    settings = _settings(source)
    if "image_mean" in settings or "do_rescale" in settings:
        return _of_processor(settings)
    if settings.get("mean") is None or settings.get("std") is None:
        raise InputError(
            f"adapt: expected preprocessing with a mean and a standard deviation, got "
            f"{type(source).__name__} without; {_ADVICE}"
        )
    return _numbers("mean", settings["mean"]), _numbers("std", settings["std"])


def _settings(source: Any) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    names = [name for name in dir(source) if name.startswith("do_") or name in _READ]
    held = {name: getattr(source, name) for name in names}
    return {name: value for name, value in held.items() if not callable(value)}


def _of_processor(settings: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Return the constants of an image processor: (255 rescale_factor x - image_mean) / image_std."""
    steps = sorted(name for name in settings if name.startswith("do_") and name not in _KNOWN_STEPS)
    strange = [name for name in (*steps, *_STRANGE) if settings.get(name)]
    if strange:
        raise InputError(
            "adapt: expected an image processor that rescales and normalizes, got one with "
            f"{', '.join(strange)}; do that inside the model, and {_ADVICE}"
        )
    if not settings.get("do_rescale", True):
        raise InputError(
            "adapt: expected an image processor that rescales from 0..255, got one without do_rescale, which "
            f"does not say what its model takes; {_ADVICE}"
        )
    scale = 255 * check_share("rescale_factor", settings.get("rescale_factor", 1 / 255), one=True)
    mean, std = [0.0], [1.0]
    if settings.get("do_normalize", True):
        mean, std = (_numbers(name, settings.get(name)) for name in ("image_mean", "image_std"))
    return [value / scale for value in mean], [value / scale for value in std]


def _numbers(name: str, values: Any) -> list[float]:
    try:
        numbers: list[float] = torch.as_tensor(values, dtype=torch.float64, device="cpu").flatten().tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: expected a number, or one for each channel, got {values!r}; {_ADVICE}"
        ) from error
    return numbers


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
        raise InputError(
            f"model: expected logits [B, K], or an output with `.logits`, got {type(output).__name__}; "
            "adapt a model that returns them"
        )
    return logits
