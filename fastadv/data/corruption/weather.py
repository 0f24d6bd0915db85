"""Weather: snow, frost, fog and brightness."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fastadv.data.corruption.blur import streaks, zoomed
from fastadv.data.corruption.card import Draws, corruption
from fastadv.data.folder import read_image
from fastadv.errors import InputError

LUMA = (0.299, 0.587, 0.114)
DRAWN = 5  # photographs of the six: the paper's code never draws the last one
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg", "frost6.jpg")[:DRAWN]


def luma(x: Tensor) -> Tensor:
    """Return images [B, C, H, W] in gray, [B, 1, H, W]."""
    if x.shape[1] == 1:
        return x
    return sum(weight * x[:, k : k + 1] for k, weight in enumerate(LUMA))  # type: ignore[return-value]


@corruption(
    (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8), (0.1, 0.2, 1, 0.5, 10, 4, 0.8), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)  # fmt: skip
def snow(x: Tensor, constants: Sequence[float], draws: Draws) -> Tensor:
    """Whiten the image, and add flakes that fall, and the same turned by half a circle."""
    mean, scale, zoom, least, radius, sigma, weight = constants
    flakes = zoomed(mean + scale * draws.normal(1, *x.shape[2:]), zoom)
    flakes = torch.where(flakes < least, 0, flakes.clamp(0, 1)).mul_(255).floor_().div_(255)
    flakes = streaks(flakes, int(radius), sigma, 90 * draws.uniform(draw=1) - 135)
    x = weight * x + (1 - weight) * torch.maximum(x, luma(x) * 1.5 + 0.5)
    return x + flakes + flakes.rot90(2, (2, 3))


def frost_folder() -> Path:
    """Return the folder of the photographs: frost/ of the data folder, or of imagecorruptions' package."""
    from fastadv.data._load import data_folder  # which imports published sets of corruptions

    found = find_spec("imagecorruptions")
    package = [Path(found.origin).parent] if found and found.origin else []
    root = data_folder(None)
    for folder in (root / "frost", *(path / "frost" for path in package)):
        if all((folder / name).is_file() for name in PHOTOGRAPHS):
            return folder
    raise InputError(
        f"frost: expected the photographs {PHOTOGRAPHS[0]} to {PHOTOGRAPHS[-1]} in {root / 'frost'}, got "
        "none; pip install imagecorruptions-imaug, which has them, or copy them from ImageNet-C/create_c of "
        "github.com/hendrycks/robustness"
    )


@lru_cache(maxsize=16)
def photograph(path: Path, scale: float, size: tuple[int, int]) -> Tensor:
    """Return a photograph, uint8 [3, h, w], scaled, and enlarged where an image of `size` does not fit in."""
    x = read_image(path)
    fits = max((side + 1) / (scale * have) for side, have in zip(size, x.shape[1:], strict=True))
    factor = scale if fits <= 1 else 1.1 * scale * fits
    if factor == 1:
        return x
    y = interpolate(x[None].float(), scale_factor=factor, mode="bilinear", recompute_scale_factor=False)
    return y[0].round_().clamp_(0, 255).to(torch.uint8)


@corruption(
    ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
    ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
)
def frost(x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
    """Add a part of a photograph of frost on glass."""
    # The paper's code draws five of its six photographs. An image that does not fit into one enlarges it.
    kept, added, scale = constants
    folder, (height, width), crops = frost_folder(), x.shape[2:], []
    for which, down, right in draws.uniform(3).double().tolist():
        photo = photograph(folder / PHOTOGRAPHS[int(which * DRAWN)], scale, (height, width))
        top, left = int(down * (photo.shape[1] - height)), int(right * (photo.shape[2] - width))
        crops.append(photo[:, top : top + height, left : left + width])
    ice = torch.stack(crops).to(x.device).float().div_(255)
    return kept * x + added * (ice if x.shape[1] == 3 else luma(ice))


def plasma(size: int, decay: float, draws: Draws) -> Tensor:
    """Return a fractal landscape [B, size, size], 0 to 1, by diamonds and squares; size is a power of 2."""
    # Each round puts a point into the center of each square, then one in the middle of each of its sides: the
    # mean of its four neighbors, on a map without edges, with noise that decays from round to round.
    corners, reach, draw = torch.zeros_like(draws.uniform(1, 1)), 100.0, 0

    def moved(neighbors: Tensor) -> Tensor:
        nonlocal draw
        noise = draws.uniform(*neighbors.shape[1:], draw=draw)
        draw += 1
        return neighbors / 4 + reach**2 * (2 * noise - 1)

    while (n := corners.shape[1]) < size:
        down, right = corners.roll(-1, 1), corners.roll(-1, 2)
        centers = moved(corners + down + right + down.roll(-1, 2))
        top = moved(centers + centers.roll(1, 1) + corners + right)
        left = moved(centers + centers.roll(1, 2) + corners + down)
        rows = [torch.stack([corners, top], 3), torch.stack([left, centers], 3)]
        corners = torch.stack([row.reshape(-1, n, 2 * n) for row in rows], 2).reshape(-1, 2 * n, 2 * n)
        reach /= decay
    corners = corners - corners.amin((1, 2), keepdim=True)
    return corners / corners.amax((1, 2), keepdim=True)


@corruption(
    ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
def fog(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    amount, decay = constants
    height, width = x.shape[2:]
    mist = plasma(1 << (max(height, width) - 1).bit_length(), decay, draws)[:, None, :height, :width]
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * mist) * (most / (most + amount))


@corruption((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(x: Tensor, added: float, draws: Draws) -> Tensor:
    """Raise the value, at most to 1, with hue and saturation as they were."""
    value = x.amax(1, keepdim=True)
    raised = (value + added).clamp_max_(1)
    return torch.where(value > 0, x * (raised / value), raised)
