"""ResNet-18 for small images."""

import torch
from torch import Tensor, nn

from fastadv._torchvision import models
from fastadv.models._common import check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")


class ResNet18(models.ResNet):  # type: ignore[misc]
    """torchvision's ResNet-18 with the stem for 32x32 images: a 3x3 convolution of stride 1, and no max-pool.

    He et al. 2016; the small stem is the usual one for CIFAR-10. Layer names are torchvision's. It takes the
    mean over the image, so images may have another height and width than `shape`.

    x: [B, C, H, W] in [0, 1] -> logits [B, K]. InputError for another rank or number of channels.
    """

    def __init__(
        self, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, *, seed: int | None = 0
    ) -> None:
        check_sizes(classes, shape, 64)
        with first_weights(seed):
            super().__init__(models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=classes)
            self.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        self.channels = shape[0]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(check_batch(x, (self.channels, None, None)))
        return logits
