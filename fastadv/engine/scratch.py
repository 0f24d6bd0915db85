"""Reused buffers: on a CPU, faulting in fresh pages costs more than writing to them."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

LARGEST = 31 << 20  # bytes; beyond 32 MB glibc gives back whatever is freed


def keep_pages() -> None:
    """Make the C library keep pages that are freed, for tensors of up to LARGEST bytes, in this process.

    glibc returns large blocks to the system, but for those up to the largest that it has freed before. So one
    is taken and freed, which costs microseconds, since nothing is written into it: torch.empty would, where
    algorithms have to be deterministic. FASTADV_KEEP_PAGES=0 leaves the process as it is. PGD then took 1.18
    times as long on a small CNN of width 32 (64 images), 1.07 times on the CNN of Schott et al. (256) and on
    an MLP of width 512 (1,024): median processor time of five processes each, in turns, on one core.
    """
    if os.environ.get("FASTADV_KEEP_PAGES") == "0":
        return
    with suppress(RuntimeError):  # where memory is that short, nothing is lost
        torch.UntypedStorage(LARGEST, device="cpu")  # type: ignore[no-untyped-call]


class Scratch(threading.local):
    """A buffer for each thread. A copy starts with none."""

    def __init__(self) -> None:
        self._flat: Tensor | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Scratch, ()

    @contextmanager
    def cast(self, x: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        """Cast `x`, which is on the CPU and dense in some order, to that dtype in the same order.

        The result is valid inside only. A nested call, as from a loss of the caller's, gets its own memory.
        """
        flat, self._flat = self._flat, None
        if flat is None or flat.dtype is not dtype or len(flat) < x.numel():
            flat = torch.empty(x.numel(), dtype=dtype, device=x.device)
        yield flat.as_strided(x.shape, x.stride()).copy_(x)
        self._flat = flat
