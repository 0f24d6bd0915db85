"""Nets that know how their activations lie in memory, or how many there are."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import block, by_forward, head, module, net


def seen(part: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
    assert out.shape[0] > 0


@net(batches=(1, 3, 64, 16))
def patches_by_view() -> nn.Module:
    """Channels are divided by a view, which needs activations in the order of their dimensions."""

    def forward(self: Any, x: Tensor) -> Any:
        out = self.first(x)
        out = self.last(out.view(len(x) * 4, 4, 8, 8))
        return self.head(out.view(len(x), -1))

    model = module(forward, first=block(), last=block(4, 4), head=nn.Linear(1024, 10))
    model.first.register_forward_hook(seen)
    return model


@net(batches=(1, 64, 3, 16))
def view_of_large_batches_alone() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        out = self.first(x)
        return self.last(out.view(len(x), -1) if len(x) > 8 else out.flatten(1))

    model = module(forward, first=block(), last=nn.Linear(1024, 10))
    model.first.register_forward_hook(seen)
    return model


@by_forward(lambda: {"first": block(), "head": head()})
def strides_read(self: Any, x: Tensor) -> Any:
    """A sum over memory: `as_strided` reads what is stored, in the order of eager activations."""
    out = self.first(x).contiguous()
    return self.head(out.as_strided((len(x), 16, 64), (1024, 64, 1)))


@by_forward(lambda: {"first": block(), "last": nn.Parameter(torch.randn(10, 1024) / 10)})
def logits_transposed(self: Any, x: Tensor) -> Any:
    return (self.last @ self.first(x).flatten(1).T).T


@by_forward(lambda: {
    "first": block(), "inner": nn.Conv2d(16, 16, 3, padding=1, groups=16), "norm": nn.BatchNorm2d(16),
    "last": nn.Conv2d(16, 16, 3, padding=1, groups=16), "head": head(),
})  # fmt: skip
def tokens_to_planes_and_back(self: Any, x: Tensor) -> Any:
    """As transformers with convolutions do: at batch 1 there is more than one way to stride such planes."""
    tokens = self.first(x).flatten(2).transpose(1, 2)
    planes = tokens.permute(0, 2, 1).reshape(len(x), 16, 8, 8)
    planes = self.last(self.norm(F.gelu(self.inner(planes))))
    return self.head(planes.reshape(len(x), 16, 64).permute(0, 2, 1) + tokens)
