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

__all__ = [
    "bits",
    "derive",
    "fresh_seed",
    "generators_kept",
    "integers",
    "normal",
    "permutation",
    "seed_all",
    "signs",
    "uniform",
]

_BLOCK = 1 << 20
CPU = torch.device("cpu")


def fresh_seed() -> int:
    """Draw a seed from torch's global generator, for calls that nobody gave one.

    Returns:
        A seed from 0 to 2^62 - 1.
    """
    return int(torch.randint(1 << 62, (), device="cpu"))


def derive(seed: int, purpose: str, *counters: int) -> int:
    """Derive a seed of 63 bits for a purpose and its counters (an epoch, a restart).

    It is a hash of all arguments, so different arguments give different seeds.

    Args:
        seed: from 0 to 2^63 - 1.
        purpose: a text.
        counters: integers from 0 to 2^63 - 1.

    Returns:
        The derived seed.

    Raises:
        InputError: the seed or a counter is out of range, or the purpose is no string.

    Example:
        >>> import fastadv as fa
        >>> fa.rng.derive(0, "start", 1) == fa.rng.derive(0, "start", 2)
        False
    """
    check_seed(seed)
    for counter in counters:
        check_seed(counter, "counters")
    if not isinstance(purpose, str):
        raise InputError(f"purpose: expected a string, got {purpose!r}")
    words = repr((seed, purpose, *counters)).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest()) >> 1


def _cuda(device: torch.device) -> list[int]:
    # All devices, as a model may lie on several
    return [*range(torch.cuda.device_count())] if device.type == "cuda" else []


@contextmanager
def generators_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restore the generators of torch, NumPy and Python afterwards.

    Args:
        device: a GPU restores those of all GPUs, in addition to the CPU's.
        seed: sets the generators inside; None leaves them.

    Returns:
        A context manager.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=_cuda(device)):
            if seed is not None:
                seed_all(seed, device)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def seed_all(seed: int, device: torch.device = CPU) -> None:
    """Set the generators of torch, NumPy and Python; inside `generators_kept` alone.

    Args:
        seed: from 0 to 2^63 - 1.
        device: a GPU sets those of all GPUs, in addition to the CPU's.
    """
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # which takes words of 32 bits
    # torch.manual_seed would also seed the devices that are not forked
    torch.default_generator.manual_seed(seed)
    for index in _cuda(device):
        torch.cuda.default_generators[index].manual_seed(seed)


def bits(count: int, seed: int, ids: Tensor, draw: int = 0, draws: int = 1) -> Tensor:
    """Draw random words for each sample.

    Args:
        count: words of each sample.
        seed: from 0 to 2^63 - 1.
        ids: int64 [B], sample numbers.
        draw: from 0 to 2^32 - 1; another number gives other words.
        draws: how many draws to take from `draw` on: all ids have a row for each, one draw after the other.

    Returns:
        int64 [draws * B, count] in [0, 2^32).

    Example:
        >>> import torch, fastadv as fa
        >>> fa.rng.bits(2, seed=0, ids=torch.tensor([0, 1]))
        tensor([[1713891541, 3781805453],
                [2219120097, 4035800746]])

    Source:
        Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3": Philox 4x32-10.
    """
    return _rows("bits", count, seed, ids, draw, draws)


def uniform(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """Draw numbers in [0, 1) for each sample.

    Args:
        count: numbers of each sample.
        others: as in `bits`.

    Returns:
        float32 [B, count].

    Example:
        >>> import torch, fastadv as fa
        >>> both = fa.rng.uniform(3, seed=0, ids=torch.tensor([4, 7]))
        >>> torch.equal(both[1:], fa.rng.uniform(3, seed=0, ids=torch.tensor([7])))  # whatever the batch
        True
    """
    return _rows("uniform", count, seed, ids, draw)


def normal(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """Draw standard normal numbers for each sample.

    Args:
        count: numbers of each sample.
        others: as in `bits`.

    Returns:
        float32 [B, count].

    Example:
        >>> import torch, fastadv as fa
        >>> tuple(fa.rng.normal(3, seed=0, ids=torch.arange(5)).shape)
        (5, 3)
    """
    return _rows("normal", count, seed, ids, draw)


def signs(count: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """Draw signs, 1 or -1, for each sample.

    Args:
        count: signs of each sample.
        others: as in `bits`.

    Returns:
        float32 [B, count].

    Example:
        >>> import torch, fastadv as fa
        >>> fa.rng.signs(3, seed=0, ids=torch.tensor([0]))
        tensor([[ 1., -1.,  1.]])
    """
    return _rows("sign", count, seed, ids, draw)


def integers(high: int, seed: int, ids: Tensor, draw: int = 0) -> Tensor:
    """Draw one integer in [0, high) for each sample; uniform to within high / 2^62.

    Args:
        high: from 1 to 2^31.
        others: as in `bits`.

    Returns:
        int64 [B].

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch, fastadv as fa
        >>> fa.rng.integers(10, seed=0, ids=torch.arange(4))
        tensor([6, 7, 4, 0])
    """
    if isinstance(high, bool) or not isinstance(high, int) or not 1 <= high <= 2**31:
        raise InputError(f"high: expected an integer from 1 to 2^31, got {high!r}")
    words = bits(2, seed, ids, draw)
    # 62 random bits, reduced word by word so that no product leaves int64
    upper = (words[:, 0] >> 1) % high
    return ((upper << 31) + (words[:, 1] >> 1)) % high


def permutation(n: int, seed: int, draw: int = 0) -> Tensor:
    """Draw a uniform permutation of range(n), as a function of (seed, draw).

    Args:
        n: its length.
        others: as in `bits`.

    Returns:
        int64 [n].

    Example:
        >>> import fastadv as fa
        >>> fa.rng.permutation(5, seed=0)
        tensor([4, 0, 3, 1, 2])
    """
    check_count("n", n, 0)
    ids = torch.arange((n + _BLOCK - 1) // _BLOCK, device="cpu")
    words = [
        bits(2 * min(_BLOCK, n - int(i) * _BLOCK), seed, ids[i : i + 1], draw).reshape(-1, 2) for i in ids
    ]
    if not words:
        check_seed(seed)
        return torch.empty(0, dtype=torch.int64, device="cpu")
    pairs = torch.cat(words)
    keys = (pairs[:, 0] << 31) | (pairs[:, 1] >> 1)
    return keys.argsort(stable=True)


def _rows(kind: str, count: Any, seed: Any, ids: Any, draw: Any, draws: int = 1) -> Tensor:
    if not isinstance(ids, Tensor):
        raise InputError(f"ids: expected an int64 tensor [B] of sample numbers, got {type(ids).__name__}")
    return philox(ids, count, kind, seed, draw, draws)
