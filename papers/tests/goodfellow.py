"""What the tests of Goodfellow et al. share: a net that reads the digits a little, and linear models."""

import torch
from torch import nn

import fastadv as fa

INFINITE = (-torch.inf, torch.inf)


def linear(shape, classes=4, seed=0, scale=0.1):
    """Softmax regression with random weights, in float64."""
    model = fa.models.create("softmax", shape=shape, classes=classes).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model


def weights(model):
    layer = model.linear
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach(), layer.bias.detach()
