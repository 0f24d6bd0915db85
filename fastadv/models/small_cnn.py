"""A small convolutional net for the embedded digits and for MNIST."""

import torch
from torch import Tensor, nn

from fastadv.models._common import Shape, check_batch, check_sizes, draw_convolutions, first_weights

torch.fx.wrap("check_batch")


class Features(nn.Module):
    """A network that sets `channels` of its images, its layers `features`, and on their mean `linear`."""

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


def _layer(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]


class SmallCNN(Features):
    """Three 3x3 convolutions with BatchNorm and ReLU, the mean over the image, one linear layer.

    Because of the mean, images may have another height and width than `shape`. `width` is that of the first
    convolution; the representation has 4 * width features.
    """

    def __init__(
        self, shape: Shape = (1, 8, 8), classes: int = 10, *, width: int = 32, seed: int | None = 0
    ) -> None:
        super().__init__()
        check_sizes(classes, shape, width)
        self.channels = shape[0]
        with first_weights(seed):
            self.features = nn.Sequential(
                *_layer(shape[0], width, stride=1),
                *_layer(width, 2 * width, stride=2),
                *_layer(2 * width, 4 * width, stride=2 if min(shape[1:]) > 16 else 1),
            )
            self.linear = nn.Linear(4 * width, classes)
