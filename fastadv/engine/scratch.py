"""Memory that is used again: on a CPU fresh pages cost more than what is written into them."""

import threading

import torch
from torch import Tensor

LARGEST = 31 << 20  # bytes; beyond 32 MB glibc gives back whatever is freed


def keep_pages() -> None:
    """Make the C library keep pages that are freed, for tensors of up to LARGEST bytes.

    glibc returns large blocks to the system, but for those up to the largest that it has freed before. So one
    is taken and freed, which costs microseconds, since nothing is written into it.
    """
    torch.empty(LARGEST, dtype=torch.uint8)


class Scratch(threading.local):
    """A buffer for each thread; what was taken from it holds until the next call."""

    def __init__(self) -> None:
        self._flat = torch.empty(0)

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`x`, dense in some order, in that dtype and the same order."""
        if self._flat.dtype is not dtype or len(self._flat) < x.numel():
            self._flat = torch.empty(x.numel(), dtype=dtype)
        return self._flat.as_strided(x.shape, x.stride()).copy_(x)
