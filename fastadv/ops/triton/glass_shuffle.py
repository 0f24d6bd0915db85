"""glass_shuffle on a GPU (see ops/glass_shuffle.py): each pixel follows what it is a copy of, back to x."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _philox
from fastadv.ops.triton._common import start

PIXELS = 256  # of a program: all wait for the longest way


@triton.jit
def _inner(at, height, width, distance):
    row = at // width
    column = at % width
    return (row > distance) & (row <= height - distance) & (column > distance) & (column <= width - distance)


@triton.jit
def _offset(bits, distance):
    return ((bits.to(tl.int32) * (2 * distance)) >> 16) - distance


# Arguments that are not specialized: a new seed must not trigger a compilation
@triton.jit(do_not_specialize=["key_low", "key_high"])
def glass_shuffle_kernel(
    out, x, ids, channels, height, width, distance, rounds, key_low: tl.uint32, key_high: tl.uint32,
    BLOCK: tl.constexpr,
):  # fmt: skip
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    place = at
    for k in range(rounds):
        stream = _philox.stream_of(ids, row, key_low, key_high, rounds - 1 - k)
        moving = mask & _inner(place, height, width, distance)
        while tl.max(moving.to(tl.int32), 0) > 0:
            word = _philox.words(place, stream)
            target = place + _offset(word & 0xFFFF, distance) * width + _offset(word >> 16, distance)
            # a target that comes first has its new value, the one of its own target
            further = moving & (target > place) & _inner(target, height, width, distance)
            place = tl.where(moving, target, place)
            moving = further
    for channel in range(channels):
        plane = (row * channels + channel) * size
        tl.store(out + plane + at, tl.load(x + plane + place, mask=mask), mask=mask)


def launch(out: Tensor, x: Tensor, ids: Tensor, distance: int, rounds: int, seed: int) -> None:
    count, channels, height, width = x.shape
    target = out if out.is_contiguous() else out.contiguous()
    start(
        glass_shuffle_kernel, count * triton.cdiv(height * width, PIXELS), target, x.contiguous(),
        ids.contiguous(), channels, height, width, distance, rounds, *_philox.seeded(seed, 0)[:2],
        BLOCK=PIXELS, num_warps=4,
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
