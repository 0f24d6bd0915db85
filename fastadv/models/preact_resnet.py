"""Pre-activation ResNet-18 for small images."""

import torch
from torch import Tensor, nn

from fastadv._checks import check_count
from fastadv.models._common import activation_layer, check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")


class PreActBlock(nn.Module):
    """BatchNorm, activation and a 3x3 convolution, twice, beside a shortcut.

    Where sizes change, the shortcut is a 1x1 convolution of what the first activation gives, elsewhere x.
    """

    def __init__(self, channels: int, width: int, stride: int, activation: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.activation = activation_layer(activation)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False))

    def project(self, out: Tensor) -> Tensor | None:
        """Return the shortcut's convolution of `out`; None where there is none."""
        return None if self.shortcut is None else self.shortcut(out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(x))
        projected = self.project(out)
        out = self.conv2(self.activation(self.bn2(self.conv1(out))))
        return out + (x if projected is None else projected)  # type: ignore[no-any-return]


class PreActResNet18(nn.Module):
    """He et al. 2016b, for 32x32 images: the net of Wong et al. 2020 and Rice et al. 2020.

    BatchNorm and activation come before each convolution, and once more before the mean over the image. At
    the width 64, with three channels and ten classes, it has 11,172,170 parameters. Layer names are those of
    Wong et al.'s code, so that weights trained with it load. Because of the mean, images may have another
    height and width than `shape`.

    Args:
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        activation: relu, leaky_relu, elu, silu (swish in many papers), gelu or softplus.
        stem_stride: of the first convolution; see `ResNet18`.

    x: [B, C, H, W] in [0, 1] -> logits [B, K]. InputError for another rank or number of channels.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        width: int = 64,
        activation: str = "relu",
        stem_stride: int = 1,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_sizes(classes, shape, width)
        check_count("stem_stride", stem_stride, 1)
        self.channels = shape[0]
        with first_weights(seed):
            self.conv1 = nn.Conv2d(shape[0], width, 3, stem_stride, padding=1, bias=False)
            self.layer1 = _stage(width, width, 1, activation)
            self.layer2 = _stage(width, 2 * width, 2, activation)
            self.layer3 = _stage(2 * width, 4 * width, 2, activation)
            self.layer4 = _stage(4 * width, 8 * width, 2, activation)
            self.bn = nn.BatchNorm2d(8 * width)
            self.linear = nn.Linear(8 * width, classes)
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(check_batch(x, (self.channels, None, None)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.activation(self.bn(x))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(channels: int, width: int, stride: int, activation: str) -> nn.Sequential:
    return nn.Sequential(
        PreActBlock(channels, width, stride, activation), PreActBlock(width, width, 1, activation)
    )
