"""Channels-last while training: only if the model allows it, and undone afterwards."""

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.train import Standard, fit
from fastadv.train._run import allows_channels_last

from .nets import images


def net():
    convolutions = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 3))


@pytest.mark.parametrize(("channels", "stride", "allowed"), [(15, 2, False), (16, 2, True), (15, 1, True)])
def test_a_layer_whose_weight_gradient_writes_out_of_bounds_stays_contiguous(channels, stride, allowed):
    model = nn.Sequential(nn.Conv2d(channels, 8, 1, stride=stride), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert allows_channels_last(model, torch.rand(2, channels, 8, 8)) is allowed


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_are_contiguous_again_afterwards(optimizer):
    model = net()
    training = fa.train.epochs(model, images(), Standard(), epochs=3, optimizer=optimizer)
    next(training)
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)
    training.close()
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_the_callers_own_layout_stays():
    model = net().to(memory_format=torch.channels_last)
    fit(model, images(), Standard(), epochs=1)
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)
