"""Spatter: drops of water, whose rims shine, or of mud."""

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastadv.data.corruption.blur import gaussian
from fastadv.data.corruption.card import Draws, corruption

COLORS = ((175, 238, 238), (63, 42, 20))  # of water and of mud
WEAK, STRONG = 50, 150  # gradients: an edge begins at a strong one, and goes on over weak ones
TANGENT = 13573  # of 22.5 degrees, times 2^15; that of 67.5 is 2 more
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))
LENGTHS = (0, 1, 1.4, 2.1969)  # of a step, by the pixels down and across
# Of noise, for each severity: mean, deviation, and sigma of its blur
SMALL = ((0.62, 0.1, 0.7), (0.65, 0.1, 0.8), (0.65, 0.3, 1), (0.65, 0.1, 0.7), (0.65, 0.1, 0.5))
LARGE = ((0.65, 0.3, 4), (0.65, 0.3, 3), (0.65, 0.3, 2), (0.65, 0.3, 1), (0.67, 0.4, 1))
MUD = (0, 0, 0, 1, 1)
ONES, CHANGE = (1, 1, 1), (-1, 0, 1)


@corruption(
    cifar=[*zip(SMALL, (0.7, 0.7, 0.69, 0.69, 0.68), (0.5, 0.5, 0.5, 0.6, 0.6), MUD, strict=True)],
    tiny=[*zip(SMALL, (0.7, 0.7, 0.69, 0.68, 0.67), (0.6, 0.6, 0.6, 0.6, 0.6), MUD, strict=True)],
    imagenet=[*zip(LARGE, (0.69, 0.68, 0.68, 0.65, 0.65), (0.6, 0.6, 0.5, 1.5, 1.5), MUD, strict=True)],
    extra=True,
)
def spatter(x: Tensor, c: tuple[tuple[float, ...], float, float, int], draws: Draws) -> Tensor:
    """Add shining water, or paint mud, where blurred noise is above a threshold."""
    (mean, deviation, sigma), threshold, strength, mud = c
    liquid = gaussian(draws.normal(1, *x.shape[2:]).mul_(deviation).add_(mean), sigma)
    color = x.new_tensor(COLORS[mud])[:, None, None] / 255
    if x.shape[1] == 1:
        color = (color * x.new_tensor((0.2989, 0.5870, 0.1140))[:, None, None]).sum(0, keepdim=True)  # luma
    if mud:
        cover = gaussian((liquid > threshold).float(), strength)
        cover = cover.where(cover >= 0.8, 0)
        return x * (1 - cover) + cover * color
    levels = liquid.where(liquid >= threshold, 0).mul_(255).floor_().remainder_(256)  # bytes overflow
    flat = equalized(weighed(distances(rims(levels)), ONES, ONES).div_(9).floor_())
    relief = (flat + weighed(flat, ONES, CHANGE) + weighed(flat, CHANGE, ONES)).clamp_(0, 255)
    light = weighed(relief, ONES, ONES).div_(9).round_().mul_(levels)
    light.div_(light.amax((1, 2, 3), keepdim=True).clamp_min_(1)).mul_(strength)
    return torch.addcmul(x, light, color)


def weighed(x: Tensor, down: tuple[int, ...], across: tuple[int, ...], mode: str = "reflect") -> Tensor:
    """Sum 3 x 3 pixels, each with the product of its row's and its column's weight."""
    x = pad(x, (1, 1, 1, 1), mode=mode)
    for axis, (a, b, c) in ((2, down), (3, across)):
        before, here, behind = (x.narrow(axis, k, x.shape[axis] - 2) for k in range(3))
        x = (a * before).add_(here, alpha=b).add_(behind, alpha=c)
    return x


def rims(levels: Tensor) -> Tensor:
    """Mark edges by Canny's method in OpenCV's integers: Sobel's gradients, the L1 norm, four directions."""
    dx = weighed(levels, (1, 2, 1), CHANGE, "replicate").int()
    dy = weighed(levels, CHANGE, (1, 2, 1), "replicate").int()
    run, rise, opposite = dx.abs(), dy.abs() * 2**15, (dx ^ dy) < 0
    level, steep = rise < run * TANGENT, rise > run * (TANGENT + 2**16)
    size = run + dy.abs()
    around, row = pad(size, (1, 1, 1, 1)).flatten(1), size.shape[3] + 2
    ahead = torch.where(level, 1, torch.where(steep, row, torch.where(opposite, row - 1, row + 1)))
    places = torch.arange(around.shape[1], device=levels.device).view(-1, row)[1:-1, 1:-1]
    one, other = (around.gather(1, (places + k * ahead).flatten(1)).view_as(size) for k in (-1, 1))
    weak = ((size > one) & (size > other - (level | steep).int()) & (size > WEAK)).float()
    edges, before = weak * (size > STRONG), weak[:0]
    while not torch.equal(edges, before):
        edges, before = weighed(edges, ONES, ONES, "constant").sign_().mul_(weak), edges
    return edges


def distances(edges: Tensor) -> Tensor:
    """Return how far the nearest edge is [B, 1, H, W], at most 20, in steps of 1, 1.4 and 2.1969."""
    height, width = edges.shape[2:]
    nearest = 20 - 20 * edges

    def inside(x: Tensor, down: int, right: int) -> Tensor:
        return x.narrow(2, max(down, 0), height - abs(down)).narrow(3, max(right, 0), width - abs(right))

    for (down, right), count in product(STEPS, (1, 2, 4, 8, 16)):
        there = nearest + count * LENGTHS[down + abs(right)]
        for way in (count, -count):
            here = inside(nearest, way * down, way * right)
            torch.minimum(here, inside(there, -way * down, -way * right), out=here)
    return nearest


def equalized(levels: Tensor) -> Tensor:
    """Spread the histogram of each image of bytes, as OpenCV does; one level alone stays."""
    index = levels.long().flatten(1)
    places = index + 256 * torch.arange(len(index), device=index.device)[:, None]
    below = torch.bincount(places.flatten(), minlength=256 * len(index)).view(-1, 256).cumsum(1)
    least = below.gather(1, index.amin(1, keepdim=True))
    spread = (below - least) * (255 / (below[:, -1:] - least).float())
    return torch.where(least < below[:, -1:], spread.round_().gather(1, index), index).view_as(levels)
