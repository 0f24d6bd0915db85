"""What the tests of Goodfellow et al. share: a net that reads the digits a little, and linear models."""

from functools import cache

import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.studies.goodfellow2014.models import Maxout

INFINITE = (-torch.inf, torch.inf)


@cache
def digits():
    data = fa.data.load("digits", "test")
    assert isinstance(data, ImageSet)
    return data


@cache
def reader():
    """A maxout network, trained on the embedded digits in a fifth of a second."""
    model = Maxout((1, 8, 8), units=16, pieces=2, layers=1, dropout=0.0)
    train_set = fa.data.load("digits", "train")
    fa.train.fit(
        model, train_set, fa.train.Standard(), epochs=4, optimizer="adam", learning_rate=1e-2,
        optimization=fa.train.Optimization(schedule="constant"),
    )  # fmt: skip
    return model.train()


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
