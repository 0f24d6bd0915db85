"""Randomized nets: each source that a user may draw from, before a convolution with BatchNorm."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import block, head, module, net


def body() -> nn.Sequential:
    return nn.Sequential(block(), head())


@net(randomized=True)
def random_of_python() -> nn.Module:
    return module(lambda self, x: self.net(x * random.uniform(0.2, 1.0)), net=body())


@net(randomized=True)
def random_of_numpy() -> nn.Module:
    noise = np.random
    return module(lambda self, x: self.net(x * float(noise.uniform(0.2, 1.0))), net=body())


@net(randomized=True)
def random_of_torch() -> nn.Module:
    return module(lambda self, x: self.net(x + 0.2 * torch.randn_like(x)), net=body())


@net(randomized=True)
def random_of_its_own() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        return self.net(x * torch.rand((), generator=self.draw))

    return module(forward, net=body(), draw=torch.Generator().manual_seed(0))


@net(randomized=True)
def dropout_that_stays() -> nn.Module:
    return module(
        lambda self, x: self.head(F.dropout(self.first(x), 0.3, training=True)), first=block(), head=head()
    )
