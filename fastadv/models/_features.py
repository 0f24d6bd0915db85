"""What plain convolutional networks share: features, their mean over the image, and a linear layer."""

import torch
from torch import Tensor, nn

from fastadv.models._common import check_batch, draw_convolutions

torch.fx.wrap("check_batch")


class Features(nn.Module):
    """A network that sets `channels` of its images, its layers `features`, and on their mean `linear`.

    x: [B, C, H, W] in [0, 1] -> logits [B, K]. InputError for another rank or number of channels.
    """

    channels: int
    features: nn.Module
    linear: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(check_batch(x, (self.channels, None, None)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits

    def draw_weights(self) -> None:
        """Draw convolutions by what enters them; the bias of `linear` begins at 0."""
        draw_convolutions(self, "fan_in")
        nn.init.zeros_(self.linear.bias)
