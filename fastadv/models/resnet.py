"""ResNet-18 and ResNet-50 for small images."""

import torch
from torch import Tensor, nn

from fastadv._torchvision import models
from fastadv.models._common import Shape, check_batch, check_sizes, draw_convolutions, first_weights

torch.fx.wrap("check_batch")


class _SmallStem(models.ResNet):  # type: ignore[misc]
    """torchvision's ResNet with a 3x3 convolution of stride 1 in the place of its stem and max-pool."""

    _block: type[nn.Module]
    _stages: tuple[int, int, int, int]

    def __init__(
        self, shape: Shape = (3, 32, 32), classes: int = 10, *, width: int = 64, seed: int | None = 0
    ) -> None:
        check_sizes(classes, shape, width)
        with first_weights(seed):
            super().__init__(self._block, self._stages, num_classes=classes)
            if width != 64:
                self._set_width(width, classes)
            self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
            draw_convolutions(self.conv1)
        self.maxpool = nn.Identity()
        self.channels = shape[0]

    def _set_width(self, width: int, classes: int) -> None:
        """Replace the layers after the stem's convolution; torchvision's own have a width of 64."""
        self.bn1 = nn.BatchNorm2d(width)
        self.inplanes = width
        for number, blocks in enumerate(self._stages):
            stage = self._make_layer(self._block, width << number, blocks, stride=2 if number else 1)
            setattr(self, f"layer{number + 1}", stage)
        self.fc = nn.Linear(self.inplanes, classes)
        draw_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self._forward_impl(check_batch(x, (self.channels, None, None)))
        return logits


class ResNet18(_SmallStem):
    """ResNet-18 of torchvision with the stem for 32x32 images: a 3x3 convolution, and no max-pool.

    With three channels and ten classes it has 11,173,962 parameters. Layer names are torchvision's. The
    stages have 1, 2, 4 and 8 times the channels `width`. Because of the mean over the image, images may have
    another height and width than `shape`.
    """

    _block = models.resnet.BasicBlock
    _stages = (2, 2, 2, 2)


class ResNet50(_SmallStem):
    """ResNet-50 of torchvision with the stem of `ResNet18`: the network of Ilyas et al. 2019 for CIFAR-10.

    Its representation has 32 * width features. With three channels and ten classes it has 23,520,842
    parameters.
    """

    _block = models.resnet.Bottleneck
    _stages = (3, 4, 6, 3)
