"""A picture of the user's own, made to fit a model."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate

from fastadv.data.folder import read_image as read_colors
from fastadv.errors import InputError


def read_image(path: Path, shape: Sequence[int]) -> tuple[Tensor, str]:
    """Return (float32 [C, H, W] in [0, 1] of that shape, what was done to the picture in words, "" for
    nothing).

    A picture of another size is cut to the shape's proportions, around its center, and resized. A gray one
    also serves a model of three channels.

    CorruptFileError where the file is not a whole image; InputError where there is none, for a picture in
    color where the model takes gray ones, and for a model that takes neither.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise InputError(f"model: expected one of gray or color pictures, got one of {channels} channels")
    if not Path(path).is_file():
        raise InputError(f"{path}: expected an image file, got none at that place; check the path")
    image = read_colors(Path(path)).float() / 255
    if channels == 1:
        if not bool((image == image[:1]).all()):
            raise InputError(
                f"{path}: expected a gray picture, which the model takes, got one in color; convert it"
            )
        image = image[:1]
    found = tuple(image.shape[1:])
    if found == (height, width):
        return image, ""
    scale = min(found[0] / height, found[1] / width)
    tall, wide = max(round(height * scale), 1), max(round(width * scale), 1)
    top, left = (found[0] - tall) // 2, (found[1] - wide) // 2
    cut = image[None, :, top : top + tall, left : left + wide]
    made = interpolate(cut, (height, width), mode="bilinear", antialias=tall > height).clamp(0, 1)[0]
    center = "" if (tall, wide) == found else f", its center of {tall}x{wide}"
    return made, f"resized from {found[0]}x{found[1]} to {height}x{width}{center}"
