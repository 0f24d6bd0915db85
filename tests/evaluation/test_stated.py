"""The clean accuracy that a file of weights or the zoo states of a model, beside the one that is measured."""

from pathlib import Path

import torch
from torch import nn

import fastadv as fa
from fastadv.models._common import stated_accuracy


def test_a_clean_accuracy_far_below_the_stated_one_asks_for_the_normalization(tmp_path: Path) -> None:
    net, file = nn.Sequential(nn.Flatten(), nn.Linear(30, 30, bias=False)), tmp_path / "w.safetensors"
    x, y = torch.eye(30).view(30, 1, 5, 6), torch.arange(30)
    for scale, share, said in ((1.0, 1.0, False), (0.0, 0.9, True), (0.0, 0.1, False)):
        nn.init.eye_(net[1].weight)
        fa.models.save_weights(net, file, {"measured": {"clean_accuracy": share}})
        fa.models.load_weights(net, file)
        assert stated_accuracy(net) == share
        table = fa.evaluate(net, (x * scale, y), "fgsm", threat=fa.Linf(0.1))
        assert any("far below the 90.0%" in text for text in table.remarks) == said
        assert ("far below" in table.verdict) == said
        nn.init.zeros_(net[1].weight)  # as if trained since: no longer the weights of the file
        assert stated_accuracy(net) is None
