"""ResNet-18 for small images."""

import torch
from torch import Tensor, nn

from fastadv._checks import check_count
from fastadv._torchvision import models
from fastadv.models._common import check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")


STAGES = (2, 2, 2, 2)


class ResNet18(models.ResNet):  # type: ignore[misc]
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
            super().__init__(models.resnet.BasicBlock, STAGES, num_classes=classes)
            if width != 64:
                self._set_width(width, classes)
            self.conv1 = nn.Conv2d(shape[0], width, 3, stem_stride, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        self.channels = shape[0]

    def _set_width(self, width: int, classes: int) -> None:
        """Replace the layers after the stem's convolution; torchvision's own have a width of 64."""
        self.bn1 = nn.BatchNorm2d(width)
        self.inplanes = width
        for number, blocks in enumerate(STAGES):
            stage = self._make_layer(
                models.resnet.BasicBlock, width << number, blocks, stride=2 if number else 1
            )
            setattr(self, f"layer{number + 1}", stage)
        self.fc = nn.Linear(self.inplanes, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(check_batch(x, (self.channels, None, None)))
        return logits
