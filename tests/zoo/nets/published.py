"""The kinds of nets that RobustBench's zoo holds, small."""

from torch import nn

from fastadv.models import Normalized, PreActResNet18, ResNet18, ResNet50, WideResNet

from ..net import net


@net(batches=(3, 16))
def resnet18_that_normalizes() -> nn.Module:
    return Normalized(ResNet18(width=4), (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


@net(batches=(3,))
def resnet50_on_small_images() -> nn.Module:
    return ResNet50(width=2)


@net()
def preact_resnet18_with_a_raw_shortcut() -> nn.Module:
    return PreActResNet18(width=4, shortcut="raw", final_norm=False)


@net()
def preact_resnet18_padded_as_in_tensorflow() -> nn.Module:
    return PreActResNet18(width=4, activation="silu", shortcut="raw_3x3", padding="same")


@net()
def wide_resnet() -> nn.Module:
    return WideResNet(depth=10, widen_factor=1)


@net()
def wide_resnet_padded_as_in_tensorflow() -> nn.Module:
    return WideResNet(depth=10, widen_factor=1, activation="silu", padding="same")
