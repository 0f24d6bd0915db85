"""The pre-activated nets of RobustBench's zoo, small; tests/models has the twins of its ResNets."""

from fastadv.models import Normalized, PreActResNet18, WideResNet

from ..net import nets

nets(
    {},
    preact_resnet18_padded_as_in_tensorflow=lambda: Normalized(
        PreActResNet18(width=4, activation="silu", shortcut="raw_3x3", padding="same"),
        (0.49, 0.48, 0.45),
        (0.25, 0.24, 0.26),
    ),
    wide_resnet_padded_as_in_tensorflow=lambda: WideResNet(
        depth=10, widen_factor=1, activation="silu", padding="same"
    ),
)
