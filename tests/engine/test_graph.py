"""CUDA graphs: the buckets here, the capture where there is a GPU."""

import pytest
import torch
from torch import nn

from fastadv.engine import freeze
from fastadv.engine.graph import bucket


def test_buckets() -> None:
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 8, 9, 1000)] == [1, 2, 4, 4, 8, 8, 16, 1024]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_replay_is_the_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).cuda()
    plain, graphed = freeze(model), freeze(model, cuda_graph=True)
    for size in (7, 8, 3, 7):
        x, y = torch.rand(size, 2, 8, 8, device="cuda"), torch.arange(size, device="cuda") % 5
        for expected, actual in zip(plain.input_gradient(x, y), graphed.input_gradient(x, y), strict=True):
            torch.testing.assert_close(actual, expected)
