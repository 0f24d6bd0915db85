"""Gradient attacks ascend "ce_sharp" unless told otherwise; what stands for a paper ascends "ce", by name."""

from collections.abc import Callable
from inspect import signature

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import apgd, bim, fgsm, last_iterate, mim, pgd

from .nets import images, seed_cpu

SHARP = {attack.__name__: attack for attack in (pgd, bim, mim, fgsm, apgd)}


def scaled(net: nn.Module, scale: float) -> Callable[[Tensor], Tensor]:
    return lambda x: scale * net(x)


def test_of_two_classes_it_ranks_by_the_margin() -> None:
    """A range of 8 would make all points alike, and the first one the strongest."""
    seed_cpu(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), images(20).float()
    y, away = net(x).argmax(1), net[1].weight.detach()
    out = pgd(scaled(net, 0.01), x, y, fa.Linf(0.01), steps=10, stop_early=False)
    assert not out.success.all()
    sign = torch.where(y == 1, -1.0, 1.0)[:, None] * (away[1] - away[0]).sign()
    corner = (x + 0.01 * sign.view(-1, *x.shape[1:])).clamp(0, 1)
    torch.testing.assert_close(out.x_adv, corner)


def test_training_ascends_cross_entropy() -> None:
    for attack, loss in ((last_iterate, "ce"), *((each, "ce_sharp") for each in SHARP.values())):
        assert signature(attack).parameters["loss"].default == loss
