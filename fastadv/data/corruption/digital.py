"""Digital losses: contrast, elastic transform, pixelation and saturation."""

from functools import lru_cache

import torch
from torch import Tensor

from fastadv.data.corruption.blur import bell, resampled
from fastadv.data.corruption.card import Draws, corruption


@corruption((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """Pull each channel to its mean."""
    levels = (x * 255).round_()  # whole numbers, whose sum is exact in any order
    means = levels.sum((2, 3), dtype=torch.float64, keepdim=True) / (255 * x.shape[2] * x.shape[3])
    return (x - means.float()) * factor + means.float()


@lru_cache(maxsize=32)
def smoothing(size: int, sigma: float) -> Tensor:
    """Return the matrix float64 [size, size] of a Gaussian blur to 3 sigma, mirrored at the edges."""
    reach = int(3 * sigma + 0.5)
    weights, places = bell(reach, sigma), torch.arange(size, device="cpu")
    at = (places[:, None] + torch.arange(-reach, reach + 1, device="cpu")) % (2 * size)
    at = torch.where(at < size, at, 2 * size - 1 - at)
    matrix = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    return matrix.scatter_add_(1, at, weights.expand(size, -1))


def pixels(size: int, *constants: tuple[float, float, float]) -> list[tuple[float, ...]]:
    """Return constants that are shares of an image's size."""
    return [tuple(size * share for share in shares) for shares in constants]


def bent(x: Tensor, most: float, draws: Draws) -> Tensor:
    """Move three points of each image by `most` pixels or less, and the image with them, by an affine map."""
    height, width = x.shape[2:]
    center, side = torch.tensor([height // 2, width // 2], device=x.device).double(), min(height, width) // 3
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, -1]], dtype=torch.float64, device=x.device)
    points = center + side * signs  # (right, down)
    moved = points + most * (2 * draws.uniform(3, 2).double() - 1)
    one = torch.ones(3, 1, dtype=torch.float64, device=x.device)
    # the point that comes to a pixel: back from the moved points
    back = torch.linalg.solve(torch.cat([moved, one.expand(len(x), 3, 1)], 2), points.expand(len(x), 3, 2))
    down, right = (torch.arange(size, device=x.device).double() for size in (height, width))
    at = right[:, None] * back[:, None, None, 0] + down[:, None, None] * back[:, None, None, 1]
    at = at + back[:, None, None, 2]
    return resampled(x, at[..., 1], at[..., 0], centers=True)


@corruption(
    pixels(32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    pixels(64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    # 244 is in the paper's code, though its images have 224
    pixels(244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
)
def elastic_transform(x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
    """Move the image by an affine map, then each pixel by smooth noise."""
    amount, sigma, reach = constants
    x = bent(x, reach, draws)
    if not amount:
        return x
    height, width = x.shape[2:]
    noise = 2 * draws.uniform(2, height, width, draw=1).double() - 1
    rows, columns = smoothing(height, sigma).to(x.device), smoothing(width, sigma).to(x.device)
    down, right = (amount * (rows @ noise @ columns.T)).unbind(1)
    down = down + torch.arange(height, device=x.device)[:, None]
    return resampled(x, down, right + torch.arange(width, device=x.device), centers=False)


@lru_cache(maxsize=64)
def box_of(size: int, count: int, device: torch.device) -> Tensor:
    """Return which of `size` pixels PIL's box filter averages into each of `count`: 0 or 1 [count, size]."""
    scale = size / count
    places = torch.arange(size, device="cpu")
    centers = (torch.arange(count, device="cpu").double()[:, None] + 0.5) * scale
    reach = 0.5 * max(scale, 1)
    apart = (places - centers + 0.5) * (0.5 / reach)
    inside = (apart > -0.5) & (apart <= 0.5)  # and by PIL's bounds, which round differently
    inside &= (places >= (centers - reach + 0.5).long()) & (places < (centers + reach + 0.5).long())
    return inside.float().to(device)


def boxes(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize levels [B, C, H, W] as PIL does: means of whole pixels, first along rows, rounded each time.

    Sums of levels are whole numbers, exact in any order.
    """
    down, across = (box_of(have, count, x.device) for have, count in zip(x.shape[2:], size, strict=True))
    x = (x @ across.T).div_(across.sum(1)).add_(0.5).floor_()
    return (down @ x).div_(down.sum(1)[:, None]).add_(0.5).floor_()


@corruption((0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(x: Tensor, share: float, draws: Draws) -> Tensor:
    height, width = x.shape[2:]
    coarse = boxes((x * 255).round_(), (int(height * share), int(width * share)))
    return boxes(coarse, (height, width)).div_(255)


@corruption(
    ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    extra=True,
)
def saturate(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """Change the saturation, with hue and value as they were; gray, whose hue is that of red, turns red."""
    if x.shape[1] == 1:
        return x
    factor, added = constants
    value = x.amax(1, keepdim=True)
    less = value - x
    least = less.amax(1, keepdim=True)  # saturation times value
    wanted = (least * factor + added * value).minimum(value)
    red = torch.tensor([0.0, 1, 1], device=x.device).reshape(1, 3, 1, 1)
    return value - wanted * torch.where(least > 0, less / least, red)
