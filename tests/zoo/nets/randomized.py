"""Randomized nets: each source that a user may draw from, before a convolution with BatchNorm."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import block, by_forward, head, module, net, nets


def body() -> nn.Sequential:
    return nn.Sequential(block(), head())


nets(
    {"randomized": True},
    random_of_python=lambda: module(lambda self, x: self.net(x * random.uniform(0.2, 1.0)), net=body()),
    random_of_torch=lambda: module(lambda self, x: self.net(x + 0.2 * torch.randn_like(x)), net=body()),
    dropout_that_stays=lambda: module(
        lambda self, x: self.head(F.dropout(self.first(x), 0.3, training=True)), first=block(), head=head()
    ),
)


@net(randomized=True)
def random_of_numpy() -> nn.Module:
    noise = np.random
    return module(lambda self, x: self.net(x * float(noise.uniform(0.2, 1.0))), net=body())


@by_forward(lambda: {"net": body(), "draw": torch.Generator().manual_seed(0)}, randomized=True)
def random_of_its_own(self: Any, x: Tensor) -> Any:
    return self.net(x * torch.rand((), generator=self.draw))
