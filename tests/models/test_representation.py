"""The features are what the model computes, cut or watched, and the model stays as it is."""

import pytest
import torch
from torch import nn

from fastadv.models.wrappers import representation
from tests.refusals import refuses

X = torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two linear layers after a convolution; `steer` makes it untraceable."""

    def __init__(self, steer):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.hidden, self.head, self.steer = nn.Linear(48, 7), nn.Linear(7, 3), steer

    def forward(self, x):
        if self.steer and x.sum() < 0:
            x = -x
        x = self.norm(self.conv(x)).relu().flatten(1)
        return self.head(self.hidden(x).relu())

    def features(self, x):
        return self.hidden(self.norm(self.conv(x)).relu().flatten(1)).relu()


@pytest.mark.parametrize("steer", [False, True])
def test_input_of_the_last_linear(steer):
    model = Net(steer).train()
    part = representation(model)
    assert not part.training
    assert model.training
    torch.testing.assert_close(part(X), model.eval().features(X))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("steer", [False, True])
def test_output_of_a_module(steer):
    model = Net(steer).eval()
    expected = model.conv(X).flatten(1)
    torch.testing.assert_close(representation(model, "conv")(X), expected)
    torch.testing.assert_close(representation(model, model.conv)(X), expected)
    torch.testing.assert_close(representation(model, lambda x: x * 2)(X), X.flatten(1) * 2)


def test_what_is_not_there():
    model = Net(False)
    for part, got in (("tail", "'tail'"), (nn.Linear(2, 2), "another module")):
        refuses(f"a submodule of the model or its name, got {got}", representation, model, part)
    refuses(r"nn\.Linear", representation, nn.Sequential(nn.Flatten()))
    model.unused = nn.Linear(3, 3)
    refuses("did not", representation(model, "unused"), X)
