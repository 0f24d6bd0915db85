"""The losses of an epoch, one for each step."""

import torch
from torch import Tensor

from fastadv import _processes
from fastadv.errors import InputError

CHECK_EVERY = 64  # steps between two checks on a GPU, where each check waits for the device


class Losses:
    """The losses of an epoch's `steps`, each weighted by its share of the samples; float64 on `device`.

    Those of several processes are added up, so that each knows all.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        # tensors made in the caller's inference mode could not be written outside it
        with torch.inference_mode(False):
            self.values = torch.zeros(steps, dtype=torch.float64, device=device)

    @property
    def mean(self) -> float:
        """Over the samples of the epoch."""
        return float(self.values.sum())

    def take(self, step: int, loss: Tensor, share: float) -> None:
        """Write down the loss of a step, and check it; on a GPU only now and then."""
        if loss.ndim:
            raise InputError(
                "recipe: expected one number, the mean loss of the batch, "
                f"got shape {tuple(loss.shape)}; average it"
            )
        self.values[step] = _processes.add_up(loss.detach().double() * share)
        if self.values.device.type != "cuda" or (step + 1) % CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        """NotFiniteError for the first loss that is not finite."""
        bad = (~torch.isfinite(self.values)).nonzero()
        if len(bad):
            step = int(bad[0])
            raise NotFiniteError(step, float(self.values[step]))


class NotFiniteError(FloatingPointError):
    """The loss of a step is NaN or infinite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"expected a finite loss, got {loss} at step {step}")
        self.step, self.loss = step, loss
