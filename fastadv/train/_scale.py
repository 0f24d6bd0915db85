"""The factor on losses that keeps their gradients within fp16."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

FIRST, GROWTH_EVERY = 2.0**16, 2000  # those of torch.amp.GradScaler


class LossScale:
    """The factor on each loss before its backward pass; gradients are divided by it.

    A step whose gradients are not all finite is left out and halves the factor; after 2,000 others in a row
    it doubles. All processes see the gradients of the whole batch, and so decide alike. `values` holds the
    factor and the steps since it changed, as a checkpoint keeps them.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.inference_mode(False):
            self.values = torch.tensor([FIRST, 0.0], dtype=torch.float64, device=device)
        self.finite = True

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.values[0].to(loss.dtype)

    def unscale(self, gradients: Iterable[Tensor | None]) -> None:
        """Divide gradients by the factor, in place, and see whether all are finite."""
        known = [gradient for gradient in gradients if gradient is not None]
        for gradient in known:
            gradient.div_(self.values[0])
        # one wait for a GPU, as torch's own scaler has
        self.finite = bool(torch.stack([gradient.isfinite().all() for gradient in known]).all())

    def directions(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Return gradients divided by the factor, zero where they are not finite."""
        return [
            None if gradient is None else (gradient / self.values[0].to(gradient.dtype)).nan_to_num(0, 0, 0)
            for gradient in gradients
        ]

    def admits_step(self) -> bool:
        """Return whether the optimizer may step, and adapt the factor."""
        if self.finite:
            self.values[1] += 1
            if self.values[1] >= GROWTH_EVERY:
                self.values.copy_(self.values * self.values.new_tensor([2.0, 0.0]))
        else:
            self.values.copy_(self.values * self.values.new_tensor([0.5, 0.0]))
        return self.finite
