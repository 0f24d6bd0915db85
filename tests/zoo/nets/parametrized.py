"""Weights that are made of others: normalized, orthogonal, pruned, of low rank."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import weight_norm as old_weight_norm

from ..net import block, head, module, net, nets


def chain(change: Any, **options: Any) -> nn.Sequential:
    """Convolution, BatchNorm, convolution, linear layer; `change` is made of each of the three weights."""
    net = nn.Sequential(block(), block(16), head())
    for part in (net[0][0], net[1][0], net[2][1]):
        change(part, **options)
    return net


nets(
    {},
    weight_norm=lambda: chain(parametrizations.weight_norm),
    weight_norm_by_hooks=lambda: chain(old_weight_norm),
    pruned=lambda: chain(prune.random_unstructured, name="weight", amount=0.5),
)


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return nn.functional.softplus(weight)


@net()
def weight_as_a_plain_tensor() -> nn.Module:
    """What quantization tools leave behind: a weight that is an attribute, made anew at each pass."""

    def forward(self: Any, x: Tensor) -> Any:
        first = self.net[0][0]
        first.weight = first.codes * first.scale
        return self.net(x)

    model = module(forward, net=nn.Sequential(block(), head()))
    first = model.net[0][0]
    weight = first.weight.detach()
    del first.weight
    first.register_buffer("scale", weight.abs().amax((1, 2, 3), keepdim=True) / 7)
    first.register_buffer("codes", (weight / first.scale).round())
    first.weight = first.codes * first.scale
    return model


@net()
def norm_with_a_positive_weight() -> nn.Module:
    model = nn.Sequential(block(), block(16), head())
    parametrize.register_parametrization(model[0][1], "weight", Positive())
    return model
