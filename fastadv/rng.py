"""Randomness that depends on (seed, sample id, draw) alone: the same for any batch, order or device. Global seeds stay untouched."""

import numpy as np
import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.ops.philox import philox

_BLOCK = 1 << 20


def derive(seed: int, purpose: str, *counters: int) -> int:
    """An independent 63-bit seed for each purpose and counter (an epoch, a restart), so that no two purposes share a stream."""
    entropy = [seed, int.from_bytes(purpose.encode()), *counters]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


def bits(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """`count` words in [0, 2^32) for each id: int64 [B, count]."""
    return philox(ids, count, "bits", seed, draw)


def uniform(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """`count` float32 values in [0, 1) for each id: [B, count]."""
    return philox(ids, count, "uniform", seed, draw)


def normal(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """`count` standard normal float32 values for each id: [B, count]."""
    return philox(ids, count, "normal", seed, draw)


def integers(high: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """One integer in [0, high) for each id: int64 [B]; uniform to within high / 2^62. Raises InputError unless 1 <= high <= 2^31."""
    if not 1 <= high <= 2**31:
        raise InputError(f"high: expected 1 to 2^31, got {high}")
    words = bits(2, seed, ids, draw)
    # 62 random bits, reduced word by word so that no product leaves int64
    upper = (words[:, 0] >> 1) % high
    return ((upper << 31) + (words[:, 1] >> 1)) % high


def permutation(n: int, seed: int, draw: int = 0) -> Tensor:
    """A uniform permutation of range(n), int64 [n], as a function of (seed, draw)."""
    ids = torch.arange((n + _BLOCK - 1) // _BLOCK)
    words = [
        bits(2 * min(_BLOCK, n - int(i) * _BLOCK), seed, ids[i : i + 1], draw).reshape(-1, 2) for i in ids
    ]
    if not words:
        return torch.empty(0, dtype=torch.int64)
    pairs = torch.cat(words)
    keys = (pairs[:, 0] << 31) | (pairs[:, 1] >> 1)
    return keys.argsort(stable=True)
