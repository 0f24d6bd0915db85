"""ResNet-18 and ResNet-50 for small images."""

import torch
from torch import Tensor, nn

from fastadv._checks import check_count
from fastadv._torchvision import models
from fastadv.models._common import check_batch, check_sizes, draw_convolutions, first_weights

torch.fx.wrap("check_batch")


class _SmallStem(models.ResNet):  # type: ignore[misc]
    """torchvision's ResNet with a 3x3 convolution of stride 1 in the place of its stem and max-pool."""

    _block: type[nn.Module]
    _stages: tuple[int, int, int, int]

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        width: int = 64,
        stem_stride: int = 1,
        seed: int | None = 0,
    ) -> None:
        check_sizes(classes, shape, width)
        check_count("stem_stride", stem_stride, 1)
        with first_weights(seed):
            super().__init__(self._block, self._stages, num_classes=classes)
            if width != 64:
                self._set_width(width, classes)
            self.conv1 = nn.Conv2d(shape[0], width, 3, stem_stride, padding=1, bias=False)
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
        logits: Tensor = super().forward(check_batch(x, (self.channels, None, None)))
        return logits


class ResNet18(_SmallStem):
    """torchvision's ResNet-18 with the stem for 32x32 images: a 3x3 convolution of stride 1, and no max-pool.

    He et al. 2016; the small stem is the usual one for CIFAR-10. With three channels and ten classes it has
    11,173,962 parameters. Layer names are torchvision's. It takes the mean over the image, so images may have
    another height and width than `shape`.

    Args:
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        stem_stride: of the first convolution. 1 keeps the full size, as published robust models do for
            Tiny-ImageNet too (Wang et al. 2023); with 2, images of 64x64 cost what those of 32x32 do with 1.
            The weights fit both.

    x: [B, C, H, W] in [0, 1] -> logits [B, K]. InputError for another rank or number of channels.
    """

    _block = models.resnet.BasicBlock
    _stages = (2, 2, 2, 2)


class ResNet50(_SmallStem):
    """torchvision's ResNet-50 with the same stem: the net of Ilyas et al. 2019 for CIFAR-10.

    Bottleneck blocks, 3, 4, 6 and 3 of them; the representation has 32 * width features. With three channels
    and ten classes it has 23,520,842 parameters. Arguments, names and errors are those of `ResNet18`; `width`
    counts the channels inside the first stage's blocks, which give four times as many.
    """

    _block = models.resnet.Bottleneck
    _stages = (3, 4, 6, 3)
