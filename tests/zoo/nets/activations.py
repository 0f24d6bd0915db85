"""Activations: modules and functions, in place and not, before a global mean and on slices."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import block, head, module, net


@net()
def modules_in_place() -> nn.Module:
    return nn.Sequential(
        block()[:2], nn.ELU(inplace=True), block(16)[:2], nn.ReLU(inplace=True), block(16)[:2],
        nn.ReLU6(inplace=True), block(16)[:2], nn.SiLU(inplace=True), nn.LeakyReLU(0.2, inplace=True), head(),
    )  # fmt: skip


@net()
def functions_in_place() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        x = F.elu_(self.first(x))
        x = F.relu(self.second(x), inplace=True)
        x = self.third(x).relu_()
        return self.head(torch.relu_(F.silu(self.last(x), inplace=True)))

    parts = {name: block(3 if name == "first" else 16)[:2] for name in ("first", "second", "third", "last")}
    return module(forward, **parts, head=head())


@net()
def functions() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        x = F.elu(self.first(x), 0.7)
        x = self.second(x).relu() + F.relu6(x)
        x = F.hardtanh(self.third(x), -0.5, 0.8) * x.sigmoid()
        return self.head(F.softplus(F.leaky_relu(x, 0.1)) + F.gelu(x) + torch.celu(x))

    return module(forward, first=block()[:2], second=block(16)[:2], third=block(16)[:2], head=head())


@net()
def rare_activations() -> nn.Module:
    return nn.Sequential(
        block()[:2], nn.PReLU(16), block(16)[:2], nn.Hardswish(), nn.Threshold(0.1, 0.0), block(16)[:2],
        nn.Mish(), nn.Softsign(), nn.GLU(1), nn.SELU(), nn.RReLU(), head(8 * 64),
    )  # fmt: skip


@net()
def relu_before_a_global_mean() -> nn.Module:
    return module(
        lambda self, x: self.head(torch.relu(self.second(self.first(x))).mean((2, 3))),
        first=block(3, 32), second=block(32, 64)[:2], head=head(64),
    )  # fmt: skip


@net()
def relu_on_a_slice_in_place() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        out = self.first(x).clone()
        out[:, 1::2, 1:3] = out[:, ::2, 2:4].exp()
        out[:, ::2].relu_()
        return self.head(out)

    return module(forward, first=block()[:2], head=head())


@net()
def relu_read_twice() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        before = self.first(x)
        after = torch.relu(before)
        return self.head(after * before.tanh() + self.last(after))

    return module(forward, first=block()[:2], last=block(16), head=head())


@net()
def relu_of_numbers_and_planes() -> nn.Module:
    """A ReLU that is given four, three and two dimensions."""

    def forward(self: Any, x: Tensor) -> Any:
        x = self.act(self.first(x))
        x = self.act(self.mix(x.flatten(2).transpose(1, 2)))
        return self.last(self.act(self.wide(x.mean(1))))

    return module(
        forward, first=block()[:2], mix=nn.Linear(16, 32), wide=nn.Linear(32, 32), last=nn.Linear(32, 10),
        act=nn.ReLU(inplace=True),
    )  # fmt: skip
