"""What a net of the zoo is: how it is built, what it takes, and what is known to be different about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

# rows in the order in which they come: the first batch is not the largest
BATCHES = (3, 16, 1)


@dataclass(frozen=True)
class Net:
    """A classifier of the zoo.

    shape: of one input; batches: the sizes at which gradients are compared.
    randomized: no two passes are equal; judged by means and spreads.
    coarse: the net itself rounds as bfloat16 does.
    writes: the net changes buffers of its own at every pass, in eval mode too.
    """

    name: str
    builder: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 8, 8)
    classes: int = 10
    batches: tuple[int, ...] = BATCHES
    randomized: bool = False
    coarse: bool = False
    writes: bool = False

    def build(self) -> nn.Module:
        """The net in eval mode, its BatchNorm statistics unlike those of a fresh one. Always the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.builder()
            perturb(model)
        return model.eval()

    def images(self, batch: int) -> tuple[Tensor, Tensor]:
        """(x [B, *shape] in [0, 1], y [B]); always the same for a batch size. Those of 3 are dark."""
        x = torch.rand(batch, *self.shape, generator=torch.Generator().manual_seed(batch))
        return x * 0.5 if batch == 3 else x, torch.arange(batch) % self.classes


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """Draw statistics and weights of all BatchNorms around those of a fresh one, parts of scripts too."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(torch.randn_like(buffer), alpha=0.2)
        elif name.endswith("running_var"):
            buffer.mul_(torch.empty_like(buffer).uniform_(0.6, 1.6))
    for part in model.modules():
        if isinstance(part, _NormBase) and part.weight is not None:
            part.weight.uniform_(0.7, 1.3)
            part.bias.normal_(0, 0.1)


ZOO: dict[str, Net] = {}


def nets(known: dict[str, Any], /, **builders: Callable[[], nn.Module]) -> None:
    """Register what builds nets, by their names."""
    for name, builder in builders.items():
        assert name not in ZOO
        ZOO[name] = Net(name, builder, **known)


def net(**known: Any) -> Callable[[Callable[[], nn.Module]], None]:
    """Register the function that builds a net, under its name."""
    return lambda builder: nets(known, **{builder.__name__: builder})


def module(forward: Callable[[Any, Tensor], Any], **parts: Any) -> nn.Module:
    """A module with these parts, of a class whose method is `forward`; tensors become buffers."""
    kind = type("Foreign", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            kind.register_buffer(name, part)
        else:
            setattr(kind, name, part)
    return kind


def by_forward(parts: Callable[[], dict[str, Any]], **known: Any) -> Callable[[Callable[..., Any]], None]:
    """Register the net that has these parts, made anew for each, and the function as its method `forward`."""
    return lambda forward: nets(known, **{forward.__name__: lambda: module(forward, **parts())})


def block(inputs: int = 3, outputs: int = 16, **options: Any) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def head(features: int = 16 * 64, classes: int = 10) -> nn.Sequential:
    """Flatten, and one linear layer whose logits are well apart."""
    linear = nn.Linear(features, classes)
    nn.init.normal_(linear.weight, 0, 3 / features**0.5)
    return nn.Sequential(nn.Flatten(), linear)


def lent(names: list[Net]) -> list[Any]:
    """Nets as parameters of a test, by name."""
    return [pytest.param(net, id=net.name) for net in names]
