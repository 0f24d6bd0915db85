"""What fgsm, bim, pgd, mim and apgd share: the length of steps, masks, and the loss that they ascend."""

from inspect import signature

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import apgd, bim, fgsm, last_iterate, mim, pgd
from fastadv.threat import THREATS, Linf

from .nets import Case, images, seed_cpu

STEPS = {"linf": 0.05, "l2": 0.2, "l1": 0.4, "l0": 3.0}


def test_fgsm_returns_the_step_where_it_held() -> None:
    # a step too long for the curvature of the model lowers the loss, and is still the fast gradient sign
    def model(x: Tensor) -> Tensor:
        wave = torch.sin(20 * x.flatten(1).sum(1))
        return torch.stack([1.5 - 0 * wave, wave], 1)

    x = torch.full((1, 2), 0.5)
    out = fgsm(model, x, torch.tensor([0]), Linf(0.1))
    assert not out.success
    torch.testing.assert_close((out.x_adv - x).abs(), torch.full_like(x, 0.1))


def steep_outside(mask: torch.Tensor) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(mask.numel(), 2)).double()
    weight = torch.linspace(0.5, 1.5, mask.numel(), dtype=torch.float64)
    weight = torch.where(torch.arange(mask.numel()) % 2 == 0, weight, -weight)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([0 * weight, torch.where(mask.flatten(), weight, 1000 * weight)]))
        model[1].bias.copy_(torch.tensor([9e3, 0.0]))
    return model


@pytest.mark.parametrize("steps", [1, 2])
def test_steps_have_their_length_in_a_mask(attack: Case, norm: str, steps: int) -> None:
    """That inside the mask; the second goes the same way. FGSM has one, and in L0 one is enough."""
    mask = torch.arange(16).view(1, 4, 4) % 3 > 0
    x = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    single = attack.name == "fgsm"
    if single or norm == "l0":
        steps = 1
    options = {} if single else {"steps": steps, "step_size": STEPS[norm], "random_start": False}
    threat = THREATS[norm](STEPS[norm] if single else 10.0)
    y = torch.zeros(2, dtype=torch.long)
    out = attack(steep_outside(mask), x, y, threat, mask=mask, loss="margin", stop_early=False, **options)
    moved = threat.distance(out.x_adv, x)
    assert torch.equal(out.x_adv[:, ~mask], x[:, ~mask])
    torch.testing.assert_close(moved, torch.full_like(moved, steps * STEPS[norm]))


SHARP = {attack.__name__: attack for attack in (pgd, bim, mim, fgsm, apgd)}


def test_of_two_classes_it_ranks_by_the_margin() -> None:
    """A range of 4 would make all points alike, and the first one the strongest."""
    seed_cpu(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), images(20).float()
    y, away = net(x).argmax(1), net[1].weight.detach()
    out = pgd(lambda z: 0.01 * net(z), x, y, fa.Linf(0.01), steps=10, stop_early=False)
    assert not out.success.all()
    sign = torch.where(y == 1, -1.0, 1.0)[:, None] * (away[1] - away[0]).sign()
    torch.testing.assert_close(out.x_adv, (x + 0.01 * sign.view(-1, *x.shape[1:])).clamp(0, 1))


def test_training_ascends_cross_entropy() -> None:
    for attack, loss in ((last_iterate, "ce"), *((each, "ce_sharp") for each in SHARP.values())):
        assert signature(attack).parameters["loss"].default == loss
