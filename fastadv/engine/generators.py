"""Generators of random numbers that code of a model may draw from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fastadv import rng


@contextmanager
def generators_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """The generators of torch, NumPy and Python are afterwards as they were; `seed` sets them inside."""
    python, numpy = random.getstate(), np.random.get_state()
    forked = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(forked) if seed is None else rng.torch_seeded(seed, device):
            if seed is not None:
                random.setstate(random.Random(seed).getstate())
                np.random.set_state(np.random.RandomState(seed).get_state())
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
