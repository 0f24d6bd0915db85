"""Recurrent layers on a GPU, of which cuDNN differentiates those in training mode alone, acted out."""

from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa


class AsCuDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, layer):
        ctx.layer = layer
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        if not ctx.layer.training and torch.backends.cudnn.enabled:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        return gradient, None


class Rows(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([kind(8, 6, batch_first=True, **options)])
        self.layers[0].register_forward_hook(lambda layer, x, out: AsCuDNN.apply(out[0], layer))
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.layers[0](x[:, 0])[:, -1])


KINDS = {
    "lstm": partial(Rows, nn.LSTM, num_layers=2),
    "gru": partial(Rows, nn.GRU),
    "dropout": partial(Rows, nn.LSTM, num_layers=2, dropout=0.5),
}
WAYS = {
    "module": lambda model: model,
    "function": lambda model: lambda x: model(x),
    "frozen function": lambda model: fa.freeze(lambda x: model(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_attacks_differentiate_recurrent_layers(kind, way, monkeypatch):
    model, x = KINDS[kind]().eval(), torch.rand(12, 1, 8, 8)
    y = model(x).argmax(1)
    for attack in (partial(fa.attacks.pgd, threat=fa.Linf(0.1)), partial(fa.attacks.fab, threat=fa.L2(2.0))):
        found = attack(WAYS[way](model), x, y, steps=3)
        assert torch.backends.cudnn.enabled
        with monkeypatch.context() as patch:
            patch.setattr(torch.backends.cudnn, "enabled", False)  # so that nothing refuses
            assert torch.equal(found.x_adv, attack(WAYS[way](model), x, y, steps=3).x_adv)
    assert not any(part.training for part in model.modules())
