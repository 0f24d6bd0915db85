"""Where logits are nearly alike, cross-entropy does not lead to the nearest class, and a flag says so."""

from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks import autoattack, indicators, pgd, square
from fastadv.outputs import SOFT_LOGITS, are_soft
from fastadv.threat import L2

from ..nets import images, seed_cpu


def line(scale: float, classes: int = 8) -> nn.Module:
    seed_cpu(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        model[1].weight.mul_(scale)
        model[1].bias.zero_()[0] = 0.6 * scale
    return model.eval()


@pytest.mark.slow
def test_the_flag_is_for_cross_entropy_on_soft_logits() -> None:
    x = images(12, dtype=torch.float32)
    for scale, soft in ((0.01, True), (30.0, False)):
        model = line(scale)
        y, threat = model(x).argmax(1), L2(0.02)
        out = pgd(model, x, y, threat, steps=3, loss="ce")
        assert not out.success.all()
        assert (SOFT_LOGITS in out.flags) == soft
        for options in ({}, {"loss": "margin"}, {"loss": "ce", "targets": (y + 1) % 8}):
            assert SOFT_LOGITS not in pgd(model, x, y, threat, steps=3, **options).flags
        # other components ascend other losses
        assert SOFT_LOGITS not in autoattack(model, x, y, threat, version="quick").flags


@pytest.mark.slow
def test_what_soft_logits_left_is_no_sign_of_masking() -> None:
    """Noise and Square break what the weak loss leaves: nothing is known, until a better one is there."""
    x, model, threat = images(240, dtype=torch.float32), line(0.01), L2(0.4)
    y = model(x).argmax(1)
    weak, strong = (pgd(model, x, y, threat, loss=loss) for loss in ("ce", "ce_sharp"))
    score = square(model, x, y, threat, queries=300)
    assert int((score.success & ~weak.success).sum()) > 0.03 * len(x)  # more than Square wins by chance
    for results, known in (
        ({"weak": weak}, False), ({"weak": weak, "square": score}, False),
        ({"weak": weak, "pgd": strong}, True), ({"weak": weak, "pgd": strong, "square": score}, True),
    ):  # fmt: skip
        report = indicators(model, x, y, threat, results=results)
        assert report.clean if known else report.verdict.startswith("Inconclusive")
        assert (SOFT_LOGITS in report.verdict) != known
    table = fa.evaluate(model, (x, y), {"ce": partial(pgd, threat=threat, loss="ce")})
    assert table.verdict.startswith("Inconclusive")
    assert SOFT_LOGITS in table.verdict


def test_a_share_is_that_of_the_other_classes_alone() -> None:
    y = torch.zeros(3, dtype=torch.int64)
    assert are_soft(torch.tensor([[9.0, 0, 0, 0]] * 3), y)
    assert not are_soft(torch.tensor([[9.0, 2, 0, 0]] * 3), y)
    assert not are_soft(torch.tensor([[9.0, 0]] * 3), y)
    assert not are_soft(torch.zeros(0, 4), y[:0])
