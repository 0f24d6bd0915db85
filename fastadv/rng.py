"""Randomness that depends on (seed, sample id, draw) alone: the same for any batch, order or device.

Global seeds stay untouched. Each purpose takes its seed from `derive`, so that no two purposes share a
stream.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadv._checks import check_count, check_seed
from fastadv.errors import InputError
from fastadv.ops.philox import philox

_BLOCK = 1 << 20


def derive(seed: int, purpose: str, *counters: int) -> int:
    """Derive a seed of 63 bits for a purpose and its counters (an epoch, a restart).

    It is a hash of all arguments, so different arguments give different seeds.
    Raises InputError unless seed and counters are integers from 0 to 2^63 - 1 and the purpose is a string.
    """
    check_seed(seed)
    for counter in counters:
        check_seed(counter, "counters")
    if not isinstance(purpose, str):
        raise InputError(f"purpose: expected a string, got {purpose!r}")
    words = repr((seed, purpose, *counters)).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest()) >> 1


@contextmanager
def torch_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Key what torch draws itself, such as dropout, by `seed`, and restore the caller's state afterwards."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # not torch.manual_seed, which would also seed the devices that are not forked
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def generators_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Leave the generators of torch, NumPy and Python as they were; `seed` sets them inside."""
    python, numpy = random.getstate(), np.random.get_state()
    forked = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(forked) if seed is None else torch_seeded(seed, device):
            if seed is not None:
                random.setstate(random.Random(seed).getstate())
                # NumPy takes words of 32 bits
                np.random.set_state(np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32]).get_state())
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def bits(count: int, seed: int, ids: Tensor, draw: int = 0, draws: int = 1) -> Tensor:
    """Draw `count` words in [0, 2^32) for each id: int64 [B, count].

    More `draws` give all ids a row for each: [draws * B, count], one draw after the other. Here and below,
    ids are int64 [B], the seed is from 0 to 2^63 - 1 and the draw from 0 to 2^32 - 1. Raises InputError
    otherwise.
    """
    return _rows("bits", count, seed, ids, draw, draws)


def uniform(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """Draw `count` float32 values in [0, 1) for each id: [B, count]."""
    return _rows("uniform", count, seed, ids, draw)


def normal(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """Draw `count` standard normal float32 values for each id: [B, count]."""
    return _rows("normal", count, seed, ids, draw)


def signs(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """Draw `count` float32 signs, 1 or -1, for each id: [B, count]."""
    return _rows("sign", count, seed, ids, draw)


def integers(high: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """Draw one integer in [0, high) for each id: int64 [B]; uniform to within high / 2^62.

    Raises InputError unless 1 <= high <= 2^31.
    """
    if isinstance(high, bool) or not isinstance(high, int) or not 1 <= high <= 2**31:
        raise InputError(f"high: expected an integer from 1 to 2^31, got {high!r}")
    words = bits(2, seed, ids, draw)
    # 62 random bits, reduced word by word so that no product leaves int64
    upper = (words[:, 0] >> 1) % high
    return ((upper << 31) + (words[:, 1] >> 1)) % high


def permutation(n: int, seed: int, draw: int = 0) -> Tensor:
    """Draw a uniform permutation of range(n), int64 [n], as a function of (seed, draw)."""
    check_count("n", n, 0)
    ids = torch.arange((n + _BLOCK - 1) // _BLOCK)
    words = [
        bits(2 * min(_BLOCK, n - int(i) * _BLOCK), seed, ids[i : i + 1], draw).reshape(-1, 2) for i in ids
    ]
    if not words:
        check_seed(seed)
        return torch.empty(0, dtype=torch.int64)
    pairs = torch.cat(words)
    keys = (pairs[:, 0] << 31) | (pairs[:, 1] >> 1)
    return keys.argsort(stable=True)


def _rows(kind: str, count: Any, seed: Any, ids: Any, draw: Any, draws: int = 1) -> Tensor:
    if not isinstance(ids, Tensor):
        raise InputError(f"ids: expected an int64 tensor [B] of sample numbers, got {type(ids).__name__}")
    return philox(ids, count, kind, seed, draw, draws)
