"""What image processors do to images, read from their settings and done to tensors, with a gradient."""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast, get_args

import torch
from torch import Tensor, nn

from fastadv._checks import check_share
from fastadv._extras import need
from fastadv.errors import InputError
from fastadv.models._common import check_batch, numbers, register_statistics
from fastadv.text import first_line

ADVICE = "pass mean= and std= for images in [0, 1] (mean=0, std=1 if the model normalizes them itself)"

# Steps that a mean and a deviation express, or that images in [0, 1] of the model's size have behind them
_STEPS = ("center_crop", "convert_rgb", "normalize", "pad", "reduce_labels", "rescale", "resize")
_KNOWN_STEPS = {f"do_{step}" for step in _STEPS}
# other settings of image processors that change the values of pixels, each in its own way
_STRANGE = ("include_top", "rescale_offset")
_SIZES = ("size", "crop_size", "resize_size", "input_size", "crop_pct", "crop_mode", "resize_mode")
_FILTERS = ("resample", "interpolation", "antialias", "backend")
_CONSTANTS = ("mean", "std", "num_classes", "image_mean", "image_std", "rescale_factor", *_STRANGE)
_READ = {*_CONSTANTS, *_SIZES, *_FILTERS}

# Steps of torchvision, timm and open_clip: the order of those that count, and conversions
_ORDER = {"Resize": 0, "CenterCrop": 1, "Normalize": 2}
_FROM_PIL = {"ToTensor", "MaybeToTensor", "PILToTensor", "ToImage"}
_TO_FLOAT = {"ToTensor", "MaybeToTensor", "to float"}
_NOTHING = {"to bytes", "MaybeConvertMode", "_convert_to_rgb", "RGB", "Identity", "ToPureTensor"}
_PIL_FILTERS = ("nearest-exact", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by PIL's numbers

Interpolation = Literal["bicubic", "bilinear", "nearest", "nearest-exact"]
Offset = Literal["torchvision", "hugging face", "hugging face, slow"]
# The first pixel of a crop, from half of what the image is larger, a negative number where it is padded
_OFFSETS: dict[str, Callable[[float], int]] = {
    "torchvision": lambda half: round(half) if half > 0 else math.trunc(half),
    "hugging face": math.trunc,
    "hugging face, slow": math.floor,
}


@dataclass(frozen=True)
class Processing:
    """What a processor does to images in [0, 1]: resize, clamp, crop, normalize, in this order.

    Smaller images than the crop are padded with zeros.
    """

    mean: tuple[float, ...]  # of each channel, or one for all, in the units of x
    std: tuple[float, ...]
    size: tuple[int, ...] | None = None  # (height, width), or (the shorter side,)
    longest: int | None = None  # at most, of the longer side
    crop: tuple[int, ...] | None = None  # the same, at the center
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    clamp: bool = False  # to [0, 1] after the width is resized, and the height, as 8 bits are
    offset: Offset = "torchvision"  # whose rule says which side of a crop has the odd pixel


class Processor(nn.Module):
    """A processor as a differentiable module: images [B, C, H, W] in [0, 1] to normalized ones.

    Pixels outside the crop have gradient zero.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, processing: Processing) -> None:
        super().__init__()
        need("torchvision")
        self.processing = processing
        register_statistics(self, processing.mean, processing.std)

    def forward(self, x: Tensor) -> Tensor:
        return (resized(x, self.processing) - self.mean) / self.std


@torch.fx.wrap
def resized(x: Tensor, processing: Processing) -> Tensor:
    """Return images as they are before normalization: resized, clamped, cropped."""
    channels = len(processing.mean) if len(processing.mean) > 1 else None
    if channels == 3 and x.dim() == 4 and x.shape[1] == 1:
        raise InputError(
            f"expected images [B, 3, H, W], got gray ones {list(x.shape)}; repeat their channel: "
            "x.expand(-1, 3, -1, -1)"
        )
    check_batch(x, (channels, None, None))
    from fastadv._torchvision import functional_v2 as functional

    if processing.size is not None:
        interpolation = functional.InterpolationMode(processing.interpolation)
        # an empty batch tells the size
        size = functional.resize(x[:0], list(processing.size), max_size=processing.longest).shape[-2:]
        for sides in [(x.shape[-2], size[1]), size] if processing.clamp else [size]:
            x = functional.resize(x, list(sides), interpolation, antialias=processing.antialias)
            if processing.clamp:
                # white whose weights add up to a little more than 1 keeps its gradient
                x = x.clamp(0, 1 + 8 * torch.finfo(x.dtype).eps)
    if processing.crop is not None:
        offset = _OFFSETS[processing.offset]
        sides = [processing.crop[0], processing.crop[-1]]
        corner = [offset((size - side) / 2) for size, side in zip(x.shape[-2:], sides, strict=True)]
        x = functional.crop(x, *corner, *sides)
    return x


def processing_of(source: Any) -> Processing:
    """Return what a processor of torchvision, timm, open_clip or Hugging Face does to images in [0, 1].

    Its images are those of files, in 8 bits, unless it makes floats of them before it resizes. Rounding to
    8 bits is left out.
    """
    source = _plain(source)
    if isinstance(source, Mapping) and (kind := source.get("image_processor_type")):
        # its class does more than the settings say
        found = getattr(_imported("transformers", "transformers"), kind, None)
        source = _plain(found.from_dict({**source}) if found else _refuse("one of transformers", kind))
    settings = settings_of(source)
    if _is_hugging_face(settings):
        return _compared(source, _of_hugging_face(settings))
    if "resize_mode" in settings or (isinstance(source, Mapping) and "size" in settings):
        module = _imported("open_clip", "open_clip.transform")
        known = module.merge_preprocess_dict(module.PreprocessCfg(), settings)
        source = module.image_transform_v2(module.PreprocessCfg(**known), is_train=False)
    elif "input_size" in settings:
        data = _imported("timm", "timm.data")
        source = data.create_transform(**data.resolve_data_config(pretrained_cfg=settings))
    elif all(hasattr(source, name) for name in ("resize_size", "antialias")):
        return _of_steps(_preset(source))
    if isinstance(source, Mapping) or not callable(source):
        _refuse("the size of images", f"{type(source).__name__} without")
    return _of_steps(_steps(source))


def _imported(package: str, module: str) -> Any:
    need(package)
    importlib.import_module("fastadv._torchvision")  # which they import, too
    return importlib.import_module(module)


def _plain(source: Any) -> Any:
    if isinstance(source, type):
        name = source.__name__
        raise InputError(f"preprocessing: expected a processor, got the class {name}; pass {name}(...)")
    source = getattr(source, "image_processor", source)  # beside a tokenizer
    if callable(transforms := getattr(source, "transforms", None)):  # a member of a weights enum
        source = transforms()
    return getattr(source, "data_config", source)  # Hugging Face's processor of timm's networks


def settings_of(source: Any) -> dict[str, Any]:
    """Return what a processor states about itself."""
    if isinstance(source, Mapping):
        return dict(source)
    names = [name for name in dir(source) if name.startswith("do_") or name in _READ]
    held = {name: getattr(source, name) for name in names}
    return {name: value for name, value in held.items() if not callable(value)}


def constants(source: Any) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation alone, in the units of x."""
    source = _plain(source)
    settings = settings_of(source)
    if _is_hugging_face(settings):
        return _rescaled(settings)
    if getattr(source, "transforms", None) or isinstance(source, nn.Sequential):
        processing = processing_of(source)
        return list(processing.mean), list(processing.std)
    if settings.get("mean") is None or settings.get("std") is None:
        raise InputError(
            f"adapt: expected preprocessing with a mean and a standard deviation, got "
            f"{type(source).__name__} without; {ADVICE}"
        )
    return numbers("mean", settings["mean"]), numbers("std", settings["std"])


def _refuse(expected: str, got: str) -> NoReturn:
    raise InputError(
        f"preprocessing: expected {expected}, got {got}; process images before the attack, and {ADVICE}"
    )


def _is_hugging_face(settings: Mapping[str, Any]) -> bool:
    return "image_mean" in settings or any(name.startswith("do_") for name in settings)


def _rescaled(settings: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Return the constants of an image processor: (255 rescale_factor x - image_mean) / image_std."""
    steps = sorted(name for name in settings if name.startswith("do_") and name not in _KNOWN_STEPS)
    strange = [name for name in (*steps, *_STRANGE) if settings.get(name)]
    if strange:
        raise InputError(
            "adapt: expected an image processor that rescales and normalizes, got one with "
            f"{', '.join(strange)}; do that inside the model, and {ADVICE}"
        )
    if not settings.get("do_rescale", True):
        raise InputError(
            "adapt: expected an image processor that rescales from 0..255, got one without do_rescale, which "
            f"does not say what its model takes; {ADVICE}"
        )
    scale = 255 * check_share("rescale_factor", settings.get("rescale_factor", 1 / 255), one=True)
    mean, std = [0.0], [1.0]
    if settings.get("do_normalize", True):
        mean, std = (numbers(name, settings.get(name)) for name in ("image_mean", "image_std"))
    return [value / scale for value in mean], [value / scale for value in std]


def _of_hugging_face(settings: dict[str, Any]) -> Processing:
    mean, std = _rescaled(settings)
    if others := [name for name in ("do_pad", "crop_pct") if settings.get(name)]:
        _refuse("an image processor that resizes and crops", f"one with {', '.join(others)}")
    size, crop = None, None
    if settings.get("do_resize", True):
        size = _stated("size", settings)
    if settings.get("do_center_crop"):
        crop = _stated("crop_size", settings)
    pil = settings.get("backend") == "pil"
    interpolation = _interpolation(settings.get("resample", 2), pil=pil)
    offset: Offset = "hugging face, slow" if pil else "hugging face"
    clamp = size is not None and interpolation == "bicubic"
    return Processing((*mean,), (*std,), size, None, crop, interpolation, clamp=clamp, offset=offset)


def _stated(name: str, settings: dict[str, Any]) -> tuple[int, ...]:
    sides = settings.get(name)
    if isinstance(sides, int):
        raise InputError(
            f"preprocessing: expected {name} with height and width, or with shortest_edge alone, "
            f"got {sides}, which each class of processors reads in its own way; build it with the class, "
            "such as AutoImageProcessor.from_pretrained(name), or CLIPImageProcessor(**settings)"
        )
    if sides is not None:
        sides = dict(sides)
        for keys in (("height", "width"), ("shortest_edge",)):
            if sides.keys() == {*keys}:
                return tuple(sides[key] for key in keys)
    _refuse(f"{name} with height and width, or with shortest_edge alone", str(sides))


def _compared(source: Any, processing: Processing) -> Processing:
    """Refuse a processor of Hugging Face that does other things than its settings say, as one image shows."""
    if isinstance(source, Mapping) or not callable(source):
        return processing
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 61, 83), dtype=torch.uint8, device="cpu", generator=draw)
    wanted, name = "an image processor that resizes, crops and normalizes", type(source).__name__
    try:
        expected = source(images=image.numpy(), return_tensors="pt")["pixel_values"]
    except Exception as error:  # processors raise anything
        _refuse(wanted, f"{name}, which fails on an image of 3 channels ({first_line(error)})")
    processor = Processor(processing).cpu()
    actual = processor(image[None] / 255)
    same_shape = getattr(expected, "shape", None) == actual.shape
    if not same_shape or ((actual - expected) * processor.std).abs().mean() > 2 / 255:
        _refuse(wanted, f"{name}, which differs on an image")
    return processing


def _interpolation(stated: Any, *, pil: bool) -> Interpolation:
    name = getattr(stated, "value", stated)
    name = _PIL_FILTERS[name] if isinstance(name, int) else str(name)
    if name not in get_args(Interpolation) or (pil and name.startswith("nearest")):
        _refuse("interpolation bicubic or bilinear, of tensors also nearest", name)
    return cast(Interpolation, name)


def _preset(source: Any) -> list[Any]:
    """Return the steps of a preset of torchvision, as `weights.transforms()` are."""
    package = _imported("torchvision", "torchvision.transforms")
    crop = [package.CenterCrop(source.crop_size)] if getattr(source, "crop_size", None) else []
    return [
        package.Resize(source.resize_size, source.interpolation, antialias=source.antialias),
        *crop,
        package.ConvertImageDtype(torch.float32),
        package.Normalize(source.mean, source.std),
    ]


def _sides(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _steps(source: Any) -> list[Any]:
    inside: Any = source if isinstance(source, nn.Sequential) else []
    if type(source).__name__ == "Compose":  # others choose among their transforms
        inside = source.transforms
    return [step for part in inside for step in _steps(part)] or [source]


def _name(step: Any) -> str:
    name: str = getattr(step, "__name__", type(step).__name__)
    if name in _ORDER and not (module := type(step).__module__).startswith("torchvision."):
        return f"{module}.{name}"
    if name in ("ToDtype", "ConvertImageDtype"):
        if step.dtype in (torch.float32, torch.float64) and getattr(step, "scale", True):
            return "to float"
        return "to bytes" if step.dtype is torch.uint8 else f"{name}({step.dtype})"
    return "Resize(None)" if name == "Resize" and step.size is None else name


def _of_steps(steps: list[Any]) -> Processing:
    """Return the processing of transforms that follow each other."""
    names = [_name(step) for step in steps]
    if strange := [name for name in names if name not in {*_ORDER, *_FROM_PIL, *_TO_FLOAT, *_NOTHING}]:
        _refuse("Resize, CenterCrop, Normalize and conversions to float", ", ".join(strange))
    places = [_ORDER[name] for name in names if name in _ORDER]
    if places != sorted(set(places)):
        _refuse("Resize, CenterCrop and Normalize in this order, each once", ", ".join(names))
    if "PILToTensor" in names and not _TO_FLOAT & {*names}:
        _refuse("a conversion to float", "PILToTensor without")
    found = {name: (at, step) for at, (name, step) in enumerate(zip(names, steps, strict=True))}
    mean, std = [0.0], [1.0]
    if "Normalize" in found:
        mean, std = (numbers(name, getattr(found["Normalize"][1], name)) for name in ("mean", "std"))
    crop = _sides(found["CenterCrop"][1].size) if "CenterCrop" in found else None
    if "Resize" not in found:
        return Processing((*mean,), (*std,), crop=crop)
    at, step = found["Resize"]
    before, after = {*names[:at]}, {*names[at:]}
    pil, eight_bits = bool(_FROM_PIL & after), bool(_TO_FLOAT & after) and not _TO_FLOAT & before
    how = _interpolation(step.interpolation, pil=pil)
    antialias, clamp = pil or bool(step.antialias), eight_bits and how == "bicubic"
    size = _sides(step.size)
    return Processing((*mean,), (*std,), size, step.max_size, crop, how, antialias, clamp)
