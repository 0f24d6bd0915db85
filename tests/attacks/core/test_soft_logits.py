"""Where logits are nearly alike, cross-entropy does not lead to the nearest class, and a flag says so."""

import torch
from torch import nn

from fastadv.attacks import autoattack, ddn, pgd
from fastadv.attacks.core.soft_logits import SOFT_LOGITS, are_soft
from fastadv.threat import L2

from ..nets import images, seed_cpu


def line(scale: float, classes: int = 8) -> nn.Module:
    """A linear model whose logits are multiplied by `scale`."""
    seed_cpu(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        model[1].weight.mul_(scale)
        model[1].bias.zero_()[0] = 0.6 * scale
    return model.eval()


def test_the_flag_is_for_cross_entropy_on_soft_logits() -> None:
    x = images(12, dtype=torch.float32)
    for scale, soft in ((0.01, True), (30.0, False)):
        model = line(scale)
        y, threat = model(x).argmax(1), L2(0.02)
        out = pgd(model, x, y, threat, steps=3)
        assert not out.success.all()
        assert (SOFT_LOGITS in out.flags) == soft
        for loss in ("ce_sharp", "margin"):
            assert SOFT_LOGITS not in pgd(model, x, y, threat, steps=3, loss=loss).flags
        assert SOFT_LOGITS not in pgd(model, x, y, threat, steps=3, targets=(y + 1) % 8).flags
        # its other components ascend other losses
        assert SOFT_LOGITS not in autoattack(model, x, y, threat, version="quick").flags


def test_a_share_is_that_of_the_other_classes_alone() -> None:
    y = torch.zeros(3, dtype=torch.int64)
    assert are_soft(torch.tensor([[9.0, 0, 0, 0]] * 3), y)
    assert not are_soft(torch.tensor([[9.0, 2, 0, 0]] * 3), y)
    assert not are_soft(torch.tensor([[9.0, 0]] * 3), y)
    assert not are_soft(torch.zeros(0, 4), y[:0])


def test_soft_logits_lead_ddn_nowhere_else_than_sharp_ones() -> None:
    x = images(12, dtype=torch.float32)
    soft, sharp = line(0.01), line(30.0)
    y = sharp(x).argmax(1)
    found, plain, best = (
        ddn(model, x, y, L2(float("inf")), steps=60, **options).distance
        for model, options in ((soft, {}), (soft, {"loss": "ce"}), (sharp, {}))
    )
    assert found.mean() <= 1.1 * best.mean()
    assert plain.mean() > 1.3 * found.mean()
