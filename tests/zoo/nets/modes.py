"""Nets that ask for grad modes, gradients and transforms within their forward."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..net import block, by_forward, head, module, net, nets


@by_forward(lambda: {"net": nn.Sequential(block(), head())})
def scale_without_gradient(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        scale = x.flatten(1).amax(1).view(-1, 1, 1, 1)
    return self.net(x / scale**2)


@by_forward(lambda: {"net": nn.Sequential(block(), head())})
def quantized_without_gradient(self: Any, x: Tensor) -> Any:
    return self.net(x if torch.is_grad_enabled() else (x * 64).round() / 64)


@by_forward(lambda: {"first": block(), "head": head()})
def detached_branch(self: Any, x: Tensor) -> Any:
    hidden = self.first(x)
    return self.head(hidden * hidden.detach().sigmoid())


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


@net()
def functional_ensemble() -> nn.Module:
    """Weights of three nets, one upon the other: parameters of five dimensions."""
    members = [nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), head()) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(members)

    def forward(self: Any, x: Tensor) -> Any:
        stacked = {name: getattr(self, name.replace(".", "_")) for name in weights}
        one = torch.func.vmap(lambda w: torch.func.functional_call(self.member[0], w, (x,)))
        return one(stacked).mean(0)

    named = {name.replace(".", "_"): nn.Parameter(weight.detach()) for name, weight in weights.items()}
    return module(forward, member=[members[0].to("meta")], **named)


@by_forward(lambda: {"net": nn.Sequential(block(), head())})
def weights_by_functional_call(self: Any, x: Tensor) -> Any:
    weights = {name: weight * 1.5 for name, weight in self.net.named_parameters()}
    return torch.func.functional_call(self.net, weights, (x,))


def checkpointed(width: int = 16) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        for part in self.parts:
            x = checkpoint(part, x, use_reentrant=False)
        return self.head(x)

    parts = nn.ModuleList([block(3, width), block(width, width)])
    return module(forward, parts=parts, head=head(width * 64))


nets(
    {},
    checkpoint=checkpointed,
    checkpoint_of_wide_convolutions=lambda: checkpointed(64),
)
