"""Random numbers of a data set's own transforms, keyed by a seed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fastadv import rng


@contextmanager
def keyed(seed: int) -> Iterator[None]:
    """Let what torch, NumPy and `random` draw here depend on `seed` alone, and change no later draw."""
    old_random, old_numpy = random.getstate(), np.random.get_state()
    try:
        with rng.torch_seeded(seed, torch.device("cpu")):
            random.setstate(random.Random(seed).getstate())
            np.random.set_state(np.random.RandomState(seed % 2**32).get_state())
            yield
    finally:
        random.setstate(old_random)
        np.random.set_state(old_numpy)
