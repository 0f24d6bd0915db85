"""What may be read without waiting for a GPU, and when to wait for it."""

import math

import torch
from torch import Tensor

AT_ONCE = {"cpu"}  # kinds of devices whose values are there at once
LONGEST_SEGMENT = 16


def waits(device: torch.device) -> bool:
    """Return whether reading a value on a device waits for all that was launched there."""
    return device.type not in AT_ONCE


def surely_finite(values: Tensor) -> bool:
    """Return whether all values are finite; False where reading them would wait, or their sum overflows."""
    return not waits(values.device) and math.isfinite(float(values.sum()))


def may_leave(evaluation: int, device: torch.device) -> bool:
    """Return whether samples may leave after it: on a CPU always, elsewhere after 1, 2, 4, 8, 16, 32 ..."""
    done = evaluation + 1
    return not waits(device) or done % LONGEST_SEGMENT == 0 or done & (done - 1) == 0


def steps_ahead(evaluations: int, most: int, device: torch.device) -> int:
    """Return how many evaluations, at most `most`, lead to the next at which samples may leave."""
    return next((n for n in range(1, most) if may_leave(evaluations + n - 1, device)), most)
