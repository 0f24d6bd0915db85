"""The features are what the model computes, and the model stays as it is."""

import torch
from torch import nn

from fastadv.models import representation
from tests.refusals import refuses

X = torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def net():
    features = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 7), nn.ReLU()
    return nn.Sequential(*features, nn.Linear(7, 3))


def test_features_are_the_input_of_the_last_linear_or_the_output_of_a_module():
    model = net().train()
    parts = {part: representation(model, part) for part in (None, "0", model[0], lambda x: x * 2)}
    assert model.training
    assert not parts[None].training
    model.eval()
    wanted = model[:6](X), model[0](X).flatten(1), model[0](X).flatten(1), X.flatten(1) * 2
    for part, expected in zip(parts.values(), wanted, strict=True):
        torch.testing.assert_close(part(X), expected)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_what_is_not_there():
    model = net()
    for part, got in (("tail", "'tail'"), (nn.Linear(2, 2), "another module")):
        refuses(f"a submodule of the model or its name, got {got}", representation, model, part)
    refuses(r"nn\.Linear", representation, nn.Sequential(nn.Flatten()))
    model.unused, model.forward = nn.Linear(3, 3), lambda x: x
    refuses("did not", representation(model, "unused"), X)
