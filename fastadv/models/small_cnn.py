"""A small convolutional net for the embedded digits and for MNIST."""

from torch import nn

from fastadv.models._common import check_sizes, first_weights
from fastadv.models._features import Features


def _layer(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


class SmallCNN(Features):
    """Three 3x3 convolutions with BatchNorm and ReLU, the mean over the image, one linear layer.

    Called with x [B, C, H, W] in [0, 1], it returns logits [B, K]. Because of the mean, images may have
    another height and width than `shape`. The representation has 4 * width features.

    Args:
        shape: (C, H, W) of one image.
        classes: the number of classes K.
        width: channels of the first convolution.
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another rank or number of channels.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        classes: int = 10,
        *,
        width: int = 32,
        seed: int | None = 0,
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
