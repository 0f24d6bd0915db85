"""Residual networks that activate before they convolve, for small images: ResNet-18 and wide ones."""

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from fastadv._checks import check_choice, check_count, check_flag
from fastadv.errors import InputError
from fastadv.models._common import (
    Shape,
    activation_layer,
    check_batch,
    check_sizes,
    draw_convolutions,
    first_weights,
)

torch.fx.wrap("check_batch")


class PreActBlock(nn.Module):
    """BatchNorm, activation and a 3x3 convolution, twice, beside a shortcut."""

    def __init__(
        self, channels: int, width: int, stride: int, activation: str, shortcut: str = "active",
        padding: str = "both",
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("shortcut", shortcut, ("active", "raw", "raw_3x3"))
        same = check_choice("padding", padding, ("both", "same")) == "same" and stride == 2
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if same else None
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=0 if same else 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.activation = activation_layer(activation)
        self.kind = shortcut
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or channels != width:
            size, around = (3, 0 if same else 1) if shortcut == "raw_3x3" else (1, 0)
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, size, stride, around, bias=False))

    def added(self, x: Tensor, active: Tensor) -> Tensor:
        """Return what the shortcut adds, from x and from what the first activation gives of it."""
        if self.shortcut is None:
            return x
        if self.kind == "raw_3x3" and self.pad is not None:
            x = self.pad(x)
        added: Tensor = self.shortcut(active if self.kind == "active" else x)
        return added

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(self.bn1(x))
        added = self.added(x, active)
        out = self.conv1(active if self.pad is None else self.pad(active))
        return self.conv2(self.activation(self.bn2(out))) + added  # type: ignore[no-any-return]


class PreActResNet18(nn.Module):
    """ResNet-18 with BatchNorm and activation before each convolution, for 32x32 images (He et al. 2016b).

    It is the network of Wong et al. 2020 and Rice et al. 2020. At the width 64, with three channels and ten
    classes, it has 11,172,170 parameters. Layer names are those of Wong et al.'s code, so that weights
    trained with it load. Because of the mean, images may have another height and width than `shape`.

    `shortcut` is the input of the convolution that is parallel to a block that changes sizes: "active", the
    output of the first activation; "raw", x itself, as in Wong et al. 2020; "raw_3x3", x, by a 3x3
    convolution instead of a 1x1, as in Gowal et al. 2020. `padding` is that of convolutions that halve an
    image: "both", a row of zeros on each side; "same", on the right and below alone, which is TensorFlow's
    SAME for even sizes. Without `final_norm` no BatchNorm and activation come before the mean, as in Wong et
    al. 2020.
    """

    def __init__(
        self, shape: Shape = (3, 32, 32), classes: int = 10, *, width: int = 64, activation: str = "relu",
        shortcut: str = "active", padding: str = "both", final_norm: bool = True, seed: int | None = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(classes, shape, width)
        self.channels = shape[0]
        rest = activation, shortcut, padding
        with first_weights(seed):
            self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
            self.layer1 = _stage(width, width, 1, *rest)
            self.layer2 = _stage(width, 2 * width, 2, *rest)
            self.layer3 = _stage(2 * width, 4 * width, 2, *rest)
            self.layer4 = _stage(4 * width, 8 * width, 2, *rest)
            self.bn = nn.BatchNorm2d(8 * width) if check_flag("final_norm", final_norm) else None
            self.linear = nn.Linear(8 * width, classes)
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(check_batch(x, (self.channels, None, None)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.bn is not None:
            x = self.activation(self.bn(x))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(channels: int, width: int, stride: int, *rest: str) -> nn.Sequential:
    return nn.Sequential(PreActBlock(channels, width, stride, *rest), PreActBlock(width, width, 1, *rest))


STEM = 16


class _Block(PreActBlock):
    """The block of pre-activation ResNets, the convolution of its shortcut named as in published weights."""

    def __init__(self, channels: int, width: int, stride: int, activation: str, padding: str) -> None:
        super().__init__(channels, width, stride, activation, padding=padding)
        self.convShortcut = None if self.shortcut is None else self.shortcut[0]
        self.shortcut = None

    def added(self, x: Tensor, active: Tensor) -> Tensor:
        return x if self.convShortcut is None else self.convShortcut(active)


class WideResNet(nn.Module):
    """WRN-depth-widen_factor, without dropout (Zagoruyko and Komodakis 2016).

    With three channels and ten classes, WRN-28-10 has 36,479,194 parameters, WRN-34-10 46,160,474. Layer
    names are those of TRADES' code (Zhang et al. 2019), which most papers on adversarial training share, so
    that their weights load; first weights are drawn as there. Because of the mean over the image, images may
    have another height and width than `shape`. The depth is 6 n + 4, with n blocks in each of three stages,
    which have 16, 32 and 64 times `widen_factor` channels; `padding` is that of `PreActResNet18`.
    """

    def __init__(
        self, shape: Shape = (3, 32, 32), classes: int = 10, *, depth: int = 28, widen_factor: int = 10,
        activation: str = "relu", padding: str = "both", seed: int | None = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(classes, shape, STEM)
        check_count("widen_factor", widen_factor, 1)
        if check_count("depth", depth, 10) % 6 != 4:
            raise InputError(f"depth: expected 6 n + 4, such as 16, 28, 34 or 70, got {depth}")
        blocks = (depth - 4) // 6
        width = STEM * widen_factor
        self.channels = shape[0]
        with first_weights(seed):
            self.conv1 = nn.Conv2d(shape[0], STEM, 3, padding=1, bias=False)
            self.block1 = _wide_stage(blocks, STEM, width, 1, activation, padding)
            self.block2 = _wide_stage(blocks, width, 2 * width, 2, activation, padding)
            self.block3 = _wide_stage(blocks, 2 * width, 4 * width, 2, activation, padding)
            self.bn1 = nn.BatchNorm2d(4 * width)
            self.fc = nn.Linear(4 * width, classes)
            draw_convolutions(self)
            nn.init.zeros_(self.fc.bias)
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(check_batch(x, (self.channels, None, None)))
        x = self.block3(self.block2(self.block1(x)))
        x = self.activation(self.bn1(x))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def _wide_stage(blocks: int, channels: int, width: int, stride: int, *rest: str) -> nn.Sequential:
    first = _Block(channels, width, stride, *rest)
    others = [_Block(width, width, 1, *rest) for _ in range(blocks - 1)]
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *others)))


wrn_28_10 = partial(WideResNet, depth=28, widen_factor=10)
wrn_34_10 = partial(WideResNet, depth=34, widen_factor=10)
