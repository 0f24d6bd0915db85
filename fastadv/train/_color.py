"""Brightness, contrast and saturation of each image."""

from torch import Tensor

from fastadv import rng
from fastadv._checks import check_number
from fastadv.errors import InputError

# shares of red, green and blue in luminance (ITU-R BT.601), as in torchvision
LUMA = (0.2989, 0.587, 0.114)


def color(
    x: Tensor,
    *,
    ids: Tensor,
    seed: int,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
) -> Tensor:
    """Change brightness, then contrast, then saturation, each by a random factor.

    torchvision's ColorJitter does the same in a random order.

    Args:
        x: floating [B, 3, H, W], or [B, 1, H, W], which has no saturation to change.
        ids: int [B], sample numbers; random numbers depend on them.
        seed: of the random numbers, an integer >= 0.
        brightness: v >= 0; the factor is drawn uniformly from [max(0, 1 - v), 1 + v].
        contrast: like brightness.
        saturation: like brightness.

    Returns:
        Images like x.

    Raises:
        InputError: x has another shape, or is not floating.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise InputError(
            f"color: expected images [B, 3, H, W] or [B, 1, H, W] of floating point, got {x.dtype} of shape "
            f"{tuple(x.shape)}"
        )
    widths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    draws = rng.uniform(3, seed, ids.to(x.device)).to(x)
    for k, (name, width) in enumerate(widths.items()):
        check_number(name, width, 0)
        low, high = max(0.0, 1 - width), 1 + width
        factor = (low + (high - low) * draws[:, k])[:, None, None, None]
        if name == "brightness":
            x = (x * factor).clamp(0, 1)
            continue
        gray = _luminance(x)
        toward = gray if name == "saturation" else gray.mean((1, 2, 3), keepdim=True)
        x = (toward + (x - toward) * factor).clamp(0, 1)
    return x


def _luminance(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
