"""philox: counter-based random bits, uniforms, normals or signs of each sample id.

Philox 4x32-10 (Salmon et al. 2011). The key is the 64-bit seed, the counter of element e of sample `id`
(e // 4, draw, low word of id, high word of id); the element takes output word e % 4.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_choice, check_count, check_seed
from fastadv.errors import InputError
from fastadv.ops._rows import check_tensor
from fastadv.ops._samples import assert_ulps
from fastadv.ops.registration.library import Sample, op, register

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


def signs(ids: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """Return `count` signs for each id, int64: 1 where a bit of the words is set, else -1, lowest first."""
    packed = words(ids, (count + 31) // 32, seed, draw)[:, :, None]
    return 2 * (packed >> torch.arange(32, device=ids.device) & 1).flatten(1)[:, :count] - 1


def normals(ids: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """Return `count` float64 standard normals for each id, by Box-Muller on neighboring words."""
    pairs = words(ids, count + count % 2, seed, draw).reshape(len(ids), (count + 1) // 2, 2)
    radius = (-2.0 * torch.log(((pairs[..., 0] >> 8) + 1).double() * 2.0**-24)).sqrt()
    angle = 2.0 * math.pi * to_uniform(pairs[..., 1])
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2).flatten(1)[:, :count]


KINDS = ("bits", "uniform", "normal", "sign")


def reference(ids: Tensor, count: int, kind: str, seed: int, draw: int, draws: int = 1) -> Tensor:
    if draws != 1:
        parts = [reference(ids, count, kind, seed, draw + more) for more in range(draws)]
        return torch.cat(parts) if parts else fake(ids, count, kind, seed, draw, draws)
    if kind == "normal":
        return normals(ids, count, seed, draw).float()
    if kind == "sign":
        return signs(ids, count, seed, draw).float()
    bits = words(ids, count, seed, draw)
    return bits if kind == "bits" else to_uniform(bits).float()


def fake(ids: Tensor, count: int, kind: str, seed: int, draw: int, draws: int = 1) -> Tensor:
    dtype = torch.int64 if kind == "bits" else torch.float32
    return ids.new_empty((draws * ids.shape[0], count), dtype=dtype)


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    if args[2] == "normal":
        assert_ulps(actual, expected, 4, floor=1e-15)
    else:
        assert torch.equal(actual, expected)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    ids = torch.tensor([0, 1, 7, 2**32 - 1, 2**32, 2**40 + 3, 2**62], device=device)
    for kind in KINDS:
        for count in (0, 1, 2, 5, 784, 1031):
            yield ids, count, kind, 0, 0
        yield ids, 33, kind, 2**63 - 1, 3
        yield ids[:0], 4, kind, 1, 1
        yield ids[::2], 4, kind, 123456789, 2**31
        yield ids, 70, kind, 5, 2**32 - 3, 3


register(
    name="philox",
    schema="(Tensor ids, int count, str kind, int seed, int draw, int draws=1) -> Tensor",
    summary="Philox 4x32-10 of (seed, id, draw, element): bits, uniform [0, 1), standard normal, or sign",
    reference=reference,
    fake=fake,
    samples=samples,
    compare=compare,
    no_gradient="random numbers depend on no input",
    dtypes=(torch.int64,),
    bytes_moved=lambda *args: fake(*args).nbytes,
    flops=lambda *args: 25 * fake(*args).numel(),
)


def philox(ids: Tensor, count: int, kind: str, seed: int = 0, draw: int = 0, draws: int = 1) -> Tensor:
    """Return `count` random values for each sample: [B, count] from `ids`, int64 [B].

    kind: "bits" (int64 in [0, 2^32)), "uniform" (float32 in [0, 1)), "normal" (float32), "sign" (float32, 1
    or -1, 32 of a word). More `draws` give [draws * B, count], one draw after the other.
    """
    check_choice("kind", kind, KINDS)
    check_tensor("ids", ids, ("B",), torch.int64)
    check_count("count", count, 0)
    check_count("draws", draws, 1)
    check_stream(seed, draw)
    check_stream(seed, draw + draws - 1)
    return op("philox")(ids, count, kind, seed, draw, draws)
