"""Activations: modules and functions, in place and not."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import block, by_forward, head, module, net


@net()
def functions_in_place() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        x = F.elu_(self.first(x))
        x = F.relu(self.second(x), inplace=True)
        x = self.third(x).relu_()
        return self.head(torch.relu_(F.silu(self.last(x), inplace=True)))

    parts = {name: block(3 if name == "first" else 16)[:2] for name in ("first", "second", "third", "last")}
    return module(forward, **parts, head=head())


@by_forward(lambda: {"first": block()[:2], "second": block(16)[:2], "third": block(16)[:2], "head": head()})
def functions(self: Any, x: Tensor) -> Any:
    x = F.elu(self.first(x), 0.7)
    x = self.second(x).relu() + F.relu6(x)
    x = F.hardtanh(self.third(x), -0.5, 0.8) * x.sigmoid()
    return self.head(F.softplus(F.leaky_relu(x, 0.1)) + F.gelu(x) + torch.celu(x))


@net()
def rare_activations() -> nn.Module:
    return nn.Sequential(
        block()[:2], nn.PReLU(16), block(16)[:2], nn.Hardswish(), nn.Threshold(0.1, 0.0), block(16)[:2],
        nn.Mish(), nn.Softsign(), nn.GLU(1), nn.SELU(), nn.RReLU(), head(8 * 64),
    )  # fmt: skip
