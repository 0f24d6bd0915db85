"""A model that normalizes inside itself, so that attacks always work in the box of the images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.models._common import check_batch

torch.fx.wrap("check_batch")


class Normalized(nn.Module):
    """model((x - mean) / std), channel by channel.

    mean, std: a number, or one for each channel, in the units of x: for images in [0, 1] the usual constants.
    x: [B, C, H, W] in the box -> logits [B, K].

    InputError for std <= 0, values that are not finite, or differing lengths.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        mean, std = ([value] if isinstance(value, (int, float)) else list(value) for value in (mean, std))
        if len(mean) != len(std) or not mean:
            raise InputError(f"expected as many means as standard deviations, got {len(mean)} and {len(std)}")
        values = torch.tensor([mean, std], dtype=torch.float64)
        if not values.isfinite().all() or not (values[1] > 0).all():
            raise InputError(f"expected finite means and std > 0, got mean {mean} and std {std}")
        self.model = model
        self.channels = len(mean) if len(mean) > 1 else None
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((check_batch(x, (self.channels, None, None)) - self.mean) / self.std)
        return logits
