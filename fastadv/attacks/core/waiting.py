"""What may be read without waiting for a GPU, and when to wait for it."""

import math

import torch
from torch import Tensor

LONGEST_SEGMENT = 8


def waits(device: torch.device) -> bool:
    """Return whether to read a value of the device waits for all that was launched on it."""
    return device.type != "cpu"


def surely_finite(values: Tensor) -> bool:
    """Return whether all values are finite; False where reading them would wait, or their sum overflows."""
    return not waits(values.device) and math.isfinite(float(values.sum()))


def may_leave(evaluation: int, device: torch.device) -> bool:
    """Return whether samples may leave now; where that waits, after 1, 2, 4, 8, 16, 24 ... evaluations."""
    done = evaluation + 1
    return not waits(device) or done % LONGEST_SEGMENT == 0 or done & (done - 1) == 0
