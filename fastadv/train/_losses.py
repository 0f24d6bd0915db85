"""The losses of an epoch, one for each step."""

import torch

from fastadv.errors import InputError
from fastadv.train._share import Means, Share

# steps between two checks on a GPU: each check waits for the device
CHECK_EVERY = 64


class Losses:
    """The losses of an epoch's `steps`, each weighted by its share of the samples; float64 on `device`.

    They are summed over the processes, so that each has all.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        # tensors made in the caller's inference mode could not be written outside it
        with torch.inference_mode(False):
            self.values = torch.zeros(steps, dtype=torch.float64, device=device)

    @property
    def mean(self) -> float:
        """Over the samples of the epoch."""
        return float(self.values.sum())

    def take(self, step: int, loss: Means, share: Share, of: int) -> None:
        """Record the loss of a step on `share`, in an epoch `of` so many samples, and check it.

        On a GPU it is checked only now and then.
        """
        losses = share.by_cut(loss)
        for each in losses:
            if each.ndim:
                raise InputError(
                    "recipe: expected one number, the mean loss of the batch, "
                    f"got shape {tuple(each.shape)}; average it"
                )
        self.values[step] = share.total(
            each.detach().double() * (part.count / of) for each, part in zip(losses, share.cut, strict=True)
        )
        if self.values.device.type != "cuda" or (step + 1) % CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        """Raise NotFiniteError for the first loss that is not finite."""
        bad = (~torch.isfinite(self.values)).nonzero()
        if len(bad):
            step = int(bad[0])
            raise NotFiniteError(step, float(self.values[step]))


class NotFiniteError(FloatingPointError):
    """The loss of a step is NaN or infinite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"expected a finite loss, got {loss} at step {step}")
        self.step, self.loss = step, loss
