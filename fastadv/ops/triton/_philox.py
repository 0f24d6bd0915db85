"""Philox 4x32-10 in registers (see ops/_philox.py).

A `stream` is (key's low word, key's high word, draw, id's low word, id's high word).
"""

import math

import triton
import triton.language as tl

_TWO_PI = tl.constexpr(2.0 * math.pi)


@triton.jit
def stream_of(ids, row, key_low, key_high, draw):
    """Return the stream of sample `row`; the three words may be of any integer type of 32 bits or more."""
    sample = tl.load(ids + row)
    low = tl.cast(key_low, tl.uint32)
    high = tl.cast(key_high, tl.uint32)
    return low, high, tl.cast(draw, tl.uint32), sample.to(tl.uint32), (sample >> 32).to(tl.uint32)


@triton.jit
def _rounds(counter, stream):
    """Compute the four output words of each counter."""
    k0, k1, draw, id_low, id_high = stream
    c0 = counter
    c1 = tl.zeros_like(c0) + draw
    c2 = tl.zeros_like(c0) + id_low
    c3 = tl.zeros_like(c0) + id_high
    for _ in tl.static_range(10):
        product0 = c0.to(tl.uint64) * 0xD2511F53
        product1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (product1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = product1.to(tl.uint32)
        c3 = product0.to(tl.uint32)
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _woven(a, b, c, d):
    """Return a0 b0 c0 d0 a1 b1 ..."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def fours(counter, stream, COUNT: tl.constexpr):
    """Compute the four words of each counter from `counter` on."""
    return _rounds((counter + tl.arange(0, COUNT)).to(tl.uint32), stream)


@triton.jit
def block(first, stream, BLOCK: tl.constexpr):
    """Compute the words of elements first .. first + BLOCK - 1; `first` a multiple of 4."""
    a, b, c, d = fours(first // 4, stream, BLOCK // 4)
    return _woven(a, b, c, d)


@triton.jit
def words(at, stream):
    """Compute the words of any elements `at`, with four times the work of `block`."""
    a, b, c, d = _rounds((at // 4).to(tl.uint32), stream)
    return tl.where(at % 4 == 0, a, tl.where(at % 4 == 1, b, tl.where(at % 4 == 2, c, d)))


@triton.jit
def uniform(bits):
    """Turn the top 24 bits into a float64 in [0, 1)."""
    return (bits >> 8).to(tl.float64) * 2.0**-24


@triton.jit
def _turned(turns):
    """Return (cos, sin) of 2 pi turns, 0 <= turns < 1, by series: the library's functions spill registers."""
    quarter = tl.floor(4.0 * turns + 0.5)
    angle = (turns - 0.25 * quarter) * _TWO_PI
    square = angle * angle
    cosine = 1.0 + tl.zeros_like(angle)
    sine = 1.0 + tl.zeros_like(angle)
    for i in tl.static_range(8):
        cosine = 1.0 - square * cosine * (1.0 / ((15 - 2 * i) * (16 - 2 * i)))
        sine = 1.0 - square * sine * (1.0 / ((16 - 2 * i) * (17 - 2 * i)))
    sine = angle * sine
    odd = (quarter == 1.0) | (quarter == 3.0)
    x = tl.where(odd, sine, cosine)
    y = tl.where(odd, cosine, sine)
    return tl.where((quarter == 1.0) | (quarter == 2.0), -x, x), tl.where(
        (quarter == 2.0) | (quarter == 3.0), -y, y
    )


@triton.jit
def _box_muller(first, second):
    radius = tl.sqrt(-2.0 * tl.log(((first >> 8) + 1).to(tl.float64) * 2.0**-24))
    cosine, sine = _turned(uniform(second))
    return radius * cosine, radius * sine


@triton.jit
def normal_block(first, stream, BLOCK: tl.constexpr):
    """Compute float64 standard normals of elements first .. first + BLOCK - 1; `first` a multiple of 4."""
    a, b, c, d = fours(first // 4, stream, BLOCK // 4)
    n0, n1 = _box_muller(a, b)
    n2, n3 = _box_muller(c, d)
    return _woven(n0, n1, n2, n3)


def seeded(seed: int, draw: int) -> tuple[int, int, int]:
    """Return the kernels' arguments key_low, key_high and draw."""
    return seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, draw & 0xFFFFFFFF
