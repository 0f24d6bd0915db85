"""How many samples to pass at once."""

import time
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv import rng
from fastadv.data._batches import batches
from fastadv.engine import Prepared
from fastadv.engine.copying.twin import device_of
from fastadv.engine.room import ran_out
from fastadv.errors import InputError, NoGradientError
from fastadv.runs import processes

BatchSize = int | Literal["auto"]
FIRST, MOST = 32, 4096  # sizes that are tried
REPEATS = 3
GAIN = 1.05  # of samples a second, that a batch twice as large must bring


def check_batch_size(value: BatchSize) -> None:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f'batch_size: expected an integer >= 1, or "auto", got {value!r}')


def device_for(frozen: Prepared) -> torch.device | None:
    """Return where its samples must lie; None for a function, which takes them where they are."""
    return device_of(frozen.model) if isinstance(frozen.model, nn.Module) else None


def chosen_batch_size(frozen: Prepared, dataset: Dataset[Any], count: int) -> int:
    """Return the size that "auto" stands for with so many samples; the first process chooses for all."""

    def choose() -> int:
        x, _, _ = next(batches(dataset, FIRST, order=range(min(FIRST, count)), workers=0))
        return fastest_batch_size(frozen, x.to(device=device_for(frozen)), count)

    return processes.from_first(choose)


def fastest_batch_size(frozen: Prepared, x: Tensor, most: int) -> int:
    """Return the size of batches, up to `most`, at which `frozen` passes most samples like x a second.

    Sizes are doubled from that of x, as long as a loss and an input gradient (or logits, of a model without
    gradients) take less a sample by a twentieth, and memory holds them. These passes are not counted, and the
    global random state stays as it was.
    """
    before, size = (frozen.forwards, frozen.backwards), len(x)
    with rng.torch_seeded(0, x.device):
        y = frozen.verdict(x).argmax(1)
        seconds = _seconds(frozen, x, y)
        while 2 * size <= min(most, MOST):
            x, y = torch.cat([x, x]), torch.cat([y, y])
            try:
                taken = _seconds(frozen, x, y)
            except (RuntimeError, MemoryError) as error:  # of a model whose rows must pass together
                if not ran_out(error):
                    raise
                break
            if 2 * seconds < GAIN * taken or frozen.fits(x) < len(x):
                break
            size, seconds = 2 * size, taken
    frozen.forwards, frozen.backwards = before
    return size


def _seconds(frozen: Prepared, x: Tensor, y: Tensor) -> float:
    """Return the least that a pass of x takes after the first."""
    taken = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        try:
            frozen.input_gradient(x, y, direction=True)
        except NoGradientError:
            frozen(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
