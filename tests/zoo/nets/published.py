"""The pre-activated nets of RobustBench's zoo, small; tests/models has the twins of its ResNets."""

from torch import nn

from fastadv.models import Normalized, PreActResNet18, WideResNet

from ..net import net


@net()
def preact_resnet18_with_a_raw_shortcut() -> nn.Module:
    return PreActResNet18(width=4, shortcut="raw", final_norm=False)


@net()
def preact_resnet18_padded_as_in_tensorflow() -> nn.Module:
    net = PreActResNet18(width=4, activation="silu", shortcut="raw_3x3", padding="same")
    return Normalized(net, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


@net()
def wide_resnet() -> nn.Module:
    return WideResNet(depth=10, widen_factor=1)


@net()
def wide_resnet_padded_as_in_tensorflow() -> nn.Module:
    return WideResNet(depth=10, widen_factor=1, activation="silu", padding="same")
