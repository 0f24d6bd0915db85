"""A run knows its model by its answers, where neither weights nor code tell another."""

from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from tests.refusals import refuses

SCALE = {"now": 1.0}  # which neither weights nor code show
X = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 18).view(3, 6))

    def forward(self, x):
        return (SCALE["now"] * x).square() @ self.weight.T


RUNS = {
    "evaluate": partial(fa.evaluate, attacks={"fgsm": partial(fa.attacks.fgsm, threat=fa.Linf(0.1))}),
    "fit": partial(fa.train.fit, recipe="standard", epochs=1),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_model_that_answers_otherwise_is_another(name, tmp_path, monkeypatch):
    run = partial(RUNS[name], run_dir=tmp_path)
    run(Scaled(), (X, Y))
    run(Scaled(), (X, Y), resume=True)
    monkeypatch.setitem(SCALE, "now", 1.5)
    refuses("another model's answer to the first samples", run, Scaled(), (X, Y), resume=True)
