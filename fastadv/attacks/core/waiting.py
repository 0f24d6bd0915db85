"""What may be read without waiting for a GPU, and when to wait for it."""

import torch
from torch import Tensor

LONGEST_SEGMENT = 8


def waits(device: torch.device) -> bool:
    """Whether to read a value of the device waits for all that was launched on it."""
    return device.type != "cpu"


def within(sizes: Tensor) -> bool:
    """Whether all sizes [n] are known to be finite; not where to read them would wait."""
    return not waits(sizes.device) and (not len(sizes) or bool(sizes.max() < torch.inf))


def settles(look: int, device: torch.device) -> bool:
    """Whether samples leave after evaluation number `look`.

    Where that waits for the device, it is done after 1, 2, 4, 8, 16, 24, 32 ... evaluations alone.
    """
    done = look + 1
    return not waits(device) or done % LONGEST_SEGMENT == 0 or done & (done - 1) == 0
