"""Philox 4x32-10 (Salmon et al. 2011) in eager PyTorch.

The key is the 64-bit seed, the counter of element e of sample `id` (e // 4, draw, low word of id, high word
of id); the element takes output word e % 4.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_count, check_seed
from fastadv.errors import InputError

MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def check_stream(seed: Any, draw: Any) -> None:
    """Raise InputError unless the seed is from 0 to 2^63 - 1 and the draw from 0 to 2^32 - 1."""
    check_seed(seed)
    if check_count("draw", draw, 0) > MASK:
        raise InputError(f"draw: expected an integer from 0 to 2^32 - 1, got {draw}")


def words(ids: Tensor, count: int, seed: int, draw: int | Tensor) -> Tensor:
    """Return `count` 32-bit words for each id [B], as int64 [B, count]; products of two wrap as in uint64."""
    block = torch.arange((count + 3) // 4, device=ids.device)[None, :]
    of_row = draw[:, None] if isinstance(draw, Tensor) else torch.full_like(block, draw)
    c0, c1 = block.expand(len(ids), -1), of_row & MASK
    c2, c3 = (ids & MASK)[:, None], ((ids >> 32) & MASK)[:, None]
    k0, k1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(10):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c2 = ((product1 >> 32) & MASK) ^ c1 ^ k0, ((product0 >> 32) & MASK) ^ c3 ^ k1
        c1, c3 = product1 & MASK, product0 & MASK
        k0, k1 = (k0 + _WEYL[0]) & MASK, (k1 + _WEYL[1]) & MASK
    return torch.stack([c.expand(len(ids), block.shape[1]) for c in (c0, c1, c2, c3)], dim=2).flatten(1)[
        :, :count
    ]


def to_uniform(bits: Tensor) -> Tensor:
    """Turn the top 24 bits of each word into a float64 in [0, 1), exact in float32 too."""
    return (bits >> 8).double() * 2.0**-24


def to_normal(bits: Tensor) -> Tensor:
    """Turn words [B, even count] into float64 standard normals, by Box-Muller on neighboring words."""
    pairs = bits.reshape(bits.shape[0], bits.shape[1] // 2, 2)
    radius = (-2.0 * torch.log(((pairs[..., 0] >> 8) + 1).double() * 2.0**-24)).sqrt()
    angle = 2.0 * math.pi * to_uniform(pairs[..., 1])
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2).flatten(1)


def signs(ids: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """Return `count` signs for each id, int64: 1 where a bit of the words is set, else -1, lowest first."""
    packed = words(ids, (count + 31) // 32, seed, draw)[:, :, None]
    return 2 * (packed >> torch.arange(32, device=ids.device) & 1).flatten(1)[:, :count] - 1


def normals(ids: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """Return `count` float64 standard normals for each id."""
    return to_normal(words(ids, count + count % 2, seed, draw))[:, :count]
