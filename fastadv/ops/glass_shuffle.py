"""glass_shuffle: pixels that become copies of near ones, one after the other, as in the sets with glass blur.

Round k takes draw k of the stream (seed, id). It goes from the last pixel to the first, over rows h from
H - distance down to distance + 1 and columns w likewise:

    right = ((word >> 16) * 2 * distance >> 16) - distance       with word number h * W + w
    down  = ((word & 0xffff) * 2 * distance >> 16) - distance
    x[:, h, w] = x[:, h + down, w + right]

The code that made the published sets means to swap the two pixels. But it swaps views of one NumPy array, of
which the second is overwritten before it is read, and so both pixels become the second.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.ops import philox
from fastadv.ops._rows import check_column, check_tensor
from fastadv.ops.registration.library import Sample, op, register

FARTHEST, MOST = 8, 4


def _sources(ids: Tensor, height: int, width: int, distance: int, seed: int, draw: int) -> Tensor:
    """Return the pixel that each one is a copy of after a round, int64 [B, H * W]."""
    at = torch.arange(height * width, device=ids.device)
    row, column = at // width, at % width
    inner = (row > distance) & (row <= height - distance) & (column > distance) & (column <= width - distance)
    bits = philox.words(ids, height * width, seed, draw)
    down, right = ((part * 2 * distance >> 16) - distance for part in (bits & 0xFFFF, bits >> 16))
    target = torch.where(inner, at + down * width + right, at)
    # a target that comes first has its new value, the one of its own target
    follow = torch.where((target > at) & inner[target], target, at)
    for _ in range((height * width).bit_length()):
        follow = follow.gather(1, follow)
    return target.gather(1, follow)


def reference(x: Tensor, ids: Tensor, distance: int, rounds: int, seed: int) -> Tensor:
    height, width = x.shape[2:]
    pixels = x.flatten(2)
    for draw in range(rounds):
        sources = _sources(ids, height, width, distance, seed, draw)
        pixels = pixels.gather(2, sources[:, None].expand(-1, x.shape[1], -1))
    return pixels.reshape(x.shape)


# B, C, H, W, distance, rounds
SAMPLES = (
    (0, 3, 8, 8, 1, 1), (1, 1, 3, 3, 1, 4), (3, 3, 9, 12, 1, 2), (2, 1, 16, 30, 8, 3), (1, 2, 1, 1, 1, 1),
    (2, 3, 40, 17, 4, 3), (2, 4, 4, 20, 2, 1),
)  # fmt: skip


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (*shape, distance, rounds) in enumerate(SAMPLES):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randint(256, shape, generator=draw, dtype=torch.uint8).to(device)
        ids = torch.arange(len(x), device=device) * (2**33 + 1) + 5
        yield x, ids, distance, rounds, 2**40 + seed
        yield x.contiguous(memory_format=torch.channels_last), ids, distance, rounds, seed


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    assert torch.equal(actual, expected)


register(
    name="glass_shuffle",
    schema="(Tensor x, Tensor ids, int distance, int rounds, int seed) -> Tensor",
    summary="pixels that become copies of near ones, one after the other; a function of (seed, id)",
    reference=reference,
    samples=samples,
    compare=compare,
    ordered=True,
    no_gradient="whole numbers are not differentiated",
    dtypes=(torch.uint8,),
    bytes_moved=lambda x, *rest: 2 * x.nbytes,
    flops=lambda x, ids, distance, rounds, seed: 30 * rounds * x[:, :1].numel(),
)


def glass_shuffle(x: Tensor, ids: Tensor, distance: int, rounds: int, seed: int = 0) -> Tensor:
    """Return images x, uint8 [B, C, H, W], in which each pixel became a copy of one up to `distance` away.

    ids: int64 [B], sample numbers. distance: 1 to 8; an image of at most 2 * distance rows or columns stays
    as it is. rounds: 1 to 4.
    """
    check_tensor("x", x, ("B", "C", "H", "W"), torch.uint8)
    check_column("ids", ids, x, torch.int64)
    for name, value, most in (("distance", distance, FARTHEST), ("rounds", rounds, MOST)):
        if check_count(name, value, 1) > most:
            raise InputError(f"{name}: expected an integer from 1 to {most}, got {value}")
    philox.check_stream(seed, 0)
    return op("glass_shuffle")(x, ids, distance, rounds, seed)
