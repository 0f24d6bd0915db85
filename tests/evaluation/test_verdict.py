"""What is said before a figure that is no robust accuracy, and of labels that do not fit."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks import Indicators
from fastadv.attacks.special.labels import label_flags
from fastadv.evaluation import evaluate
from tests.attacks.nets import images, labels, mlp
from tests.defenses import Quantize
from tests.evaluation.test_report import written

X = images(60, dtype=torch.float32)
NET = mlp(dtype=torch.float32)
Y = labels(NET, X)
WRONG = (Y + 1) % 3
PGD = partial(fa.attacks.pgd, threat=fa.Linf(0.08))
NOTHING = "misclassified before the attack: nothing was attacked; are labels and model of one kind?"
MASKED = nn.Sequential(Quantize(4), NET)


def test_a_masked_model_is_told_first(tmp_path) -> None:
    first, *_ = str(PGD(MASKED, X, Y)).splitlines()
    assert first.startswith("Not a robust accuracy: every gradient was zero on ")
    assert re.search("robust at most [0-9.]+%$", first)
    assert str(PGD(NET, X, Y)).startswith("pgd, Linf 0.08: clean 100.0%, robust ")
    table = evaluate(MASKED, (X, labels(MASKED, X)), {"pgd": PGD}, keep_samples=True)
    lead, most = "Not a robust accuracy: gradients are masked.", f"At most {100 * table.worst_case:.1f}%"
    assert str(table).startswith(f"{lead} {most}.\nattack ")
    page = written(tmp_path, table, title="mine")
    assert f"<title>{lead} {most}. mine</title>" in page.source
    assert f'<h1><span class="raised">{lead}</span> mine</h1>' in page.source
    assert f"{lead} At most {table.held.sum()} of 60 images" in page.text
    assert f"{most} within L∞ 0.08: " in page.text
    assert "pairs denied" in page.source
    assert "95%" not in page.text
    assert "pairs denied" not in written(tmp_path, replace(table, indicators=None)).source


def test_labels_that_do_not_fit_are_told() -> None:
    for out in (PGD(NET, X[:16], WRONG[:16]), fa.attacks.autoattack(NET, X[:16], WRONG[:16], fa.Linf(0.08))):
        assert out.flags == (f"labels: all 16 were {NOTHING}",)
        assert out.flags[0] in str(out)
    assert PGD(NET, X, WRONG, targets=Y).flags == ()  # whose labels lead away
    table = evaluate(NET, (X, WRONG), {"pgd": PGD}, batch_size=7)
    assert table.verdict.startswith(
        f"All 60 were {NOTHING} Inconclusive, no flag so far; did not run: 9 checks"
    )
    assert f"All 60 were {NOTHING}" in evaluate(NET, (X, WRONG), {"pgd": PGD}, indicators=False).notes()
    few = torch.where(torch.arange(60) < 4, Y, WRONG)
    assert "4 of 60 were right" in PGD(NET, X, few).flags[0]
    verdict = evaluate(NET, (X, few), {"pgd": PGD}, batch_size=1).verdict
    assert verdict.startswith("4 of 60 were right before the attack, fewer than chance, 1 in 3, allows")
    # P(X <= 1 | 100, 1/10) = 0.0003, P(X <= 2) = 0.0019
    doubted = [bool(label_flags(*counts)) for counts in ((1, 100, 10), (2, 100, 10), (1, 1000))]
    assert doubted == [True, False, False]


class Sick(nn.Module):
    def __init__(self, sick: torch.Tensor, net: nn.Module = NET) -> None:
        super().__init__()
        self.sick, self.net = sick, net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        same = (x.flatten(1)[:, None] == self.sick.flatten(1)).all(2).any(1)
        return self.net(x).masked_fill(same[:, None], torch.nan)


@pytest.mark.slow
@pytest.mark.parametrize("y", [Y, WRONG, torch.where(torch.arange(60) < 4, Y, WRONG)])
@pytest.mark.parametrize("finite", [1, 5, 59, 60])
def test_a_table_doubts_labels_where_a_result_does(finite: int, y: torch.Tensor) -> None:
    """Not where some logits are not finite, which explains as much."""
    model = Sick(X[finite:])
    said = [flag[8:].capitalize() for flag in PGD(model, X, y).flags if flag.startswith("labels: ")]
    assert bool(said) == (finite == 60 and y is not Y)
    for size in (7, 60):
        table = evaluate(model, (X, y), {"pgd": PGD}, batch_size=size, draws=1 + size % 2)
        assert table.remarks == said
        assert ("labels" in table.verdict) == bool(said)
        assert table.failed.sum() == 60 - finite


def test_what_explains_a_figure_is_said() -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 3))
    constant[1].bias.data, even = torch.tensor([0.0, 50.0, 0.0]), torch.arange(60) % 3
    for model, y in ((constant, even), (constant, even * 0 + 1), (Sick(X[:1], constant), even)):
        verdict = evaluate(model, (X, y), {"pgd": PGD}).verdict
        assert verdict.startswith("The model predicts one class for all images. ") == bool((y != 1).any())
    chance = Indicators({"square": 0.05}, lower={"square": 0.0})
    assert chance.verdict == "No sign of masking; Square broke 5.0% that gradients did not, within chance"
