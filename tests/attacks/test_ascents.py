"""What fgsm, bim, pgd, mim and apgd return and ascend."""

from inspect import signature

import torch
from torch import Tensor

from fastadv.attacks import apgd, bim, fgsm, last_iterate, mim, pgd
from fastadv.threat import Linf


def test_fgsm_returns_the_step_where_it_held() -> None:
    # a step too long for the curvature of the model lowers the loss, and is still the fast gradient sign
    def model(x: Tensor) -> Tensor:
        wave = torch.sin(20 * x.flatten(1).sum(1))
        return torch.stack([1.5 - 0 * wave, wave], 1)

    x = torch.full((1, 2), 0.5)
    out = fgsm(model, x, torch.tensor([0]), Linf(0.1))
    assert not out.success
    torch.testing.assert_close((out.x_adv - x).abs(), torch.full_like(x, 0.1))


def test_training_ascends_cross_entropy() -> None:
    defaults = {
        attack: signature(attack).parameters["loss"].default for attack in (fgsm, bim, pgd, mim, apgd)
    }
    assert set(defaults.values()) == {"ce_sharp"}
    assert signature(last_iterate).parameters["loss"].default == "ce"
