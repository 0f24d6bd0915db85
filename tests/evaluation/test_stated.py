"""The clean accuracy that a file of weights or the zoo states of a model, beside the one that is measured."""

from pathlib import Path

import torch
from torch import nn

import fastadv as fa
from fastadv.models._common import stated_accuracy


def test_a_clean_accuracy_far_below_the_stated_one_asks_for_the_normalization(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 30, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(30, 36))
    x, y = torch.eye(30, 36).view(30, 1, 6, 6), torch.arange(30)
    for scale, share, said in ((1.0, 1.0, False), (0.0, 0.9, True), (0.0, 0.1, False)):
        fa.models.save_weights(net, tmp_path / "w.safetensors", {"measured": {"clean_accuracy": share}})
        fa.models.load_weights(net, tmp_path / "w.safetensors")
        table = fa.evaluate(net, (x * scale, y), "fgsm", threat=fa.Linf(0.1))
        assert any("far below the 90.0%" in text for text in table.remarks) == said
        assert ("far below" in table.verdict) == said


def test_weights_that_were_trained_since_are_no_longer_those_of_the_file(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    fa.models.save_weights(net, tmp_path / "w.safetensors", {"measured": {"clean_accuracy": 1.0}})
    fa.models.load_weights(net, tmp_path / "w.safetensors")
    assert stated_accuracy(net) == 1.0
    with torch.no_grad():
        net[1].bias.zero_()
    assert stated_accuracy(net) is None
