"""Nets that ask for grad modes, gradients and transforms within their forward."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..net import block, by_forward, head


@by_forward(lambda: {"net": nn.Sequential(block(), head())})
def quantized_without_gradient(self: Any, x: Tensor) -> Any:
    return self.net(x if torch.is_grad_enabled() else (x * 64).round() / 64)


@by_forward(lambda: {"energy": block()[:2], "net": nn.Sequential(block(), head())})
def enables_gradients(self: Any, x: Tensor) -> Any:
    with torch.enable_grad():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        energy = torch.tanh(self.energy(leaf)).square().sum()
        (moved,) = torch.autograd.grad(energy, leaf, create_graph=torch.is_grad_enabled())
    return self.net(x + 0.1 * moved)


@by_forward(lambda: {"net": nn.Sequential(block(3, 32), nn.Conv2d(32, 16, 1), nn.ELU(), head())})
def functional_gradient(self: Any, x: Tensor) -> Any:
    moved = torch.func.grad(lambda z: self.net(z).logsumexp(1).sum())(x)
    return self.net(x + 0.1 * moved)


@by_forward(lambda: {"net": nn.Sequential(block(), head())})
def weights_by_functional_call(self: Any, x: Tensor) -> Any:
    weights = {name: weight * 1.5 for name, weight in self.net.named_parameters()}
    return torch.func.functional_call(self.net, weights, (x,))


@by_forward(lambda: {"parts": nn.ModuleList([block(), block(16)]), "head": head()})
def checkpointed(self: Any, x: Tensor) -> Any:
    for part in self.parts:
        x = checkpoint(part, x, use_reentrant=False)
    return self.head(x)
