"""The length of a step is that inside the mask: what a gradient is elsewhere is of no interest."""

import pytest
import torch
from torch import nn

from fastadv.threat import THREATS

from .nets import Case

STEPS = {"linf": 0.05, "l2": 0.2, "l1": 0.4, "l0": 3.0}


def steep_outside(mask: torch.Tensor) -> nn.Module:
    """A linear model whose weights are a thousand times as large outside the mask."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(mask.numel(), 2)).double()
    weight = torch.linspace(0.5, 1.5, mask.numel(), dtype=torch.float64)
    weight = torch.where(torch.arange(mask.numel()) % 2 == 0, weight, -weight)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([0 * weight, torch.where(mask.flatten(), weight, 1000 * weight)]))
        model[1].bias.copy_(torch.tensor([9e3, 0.0]))
    return model


@pytest.mark.parametrize("steps", [1, 2])
def test_steps_have_their_length(attack: Case, norm: str, steps: int) -> None:
    """The second goes the way of the first. FGSM has one, as long as the radius; in L0 one is enough."""
    mask = torch.arange(16).view(1, 4, 4) % 3 > 0
    x = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    single = attack.name == "fgsm"
    if single or norm == "l0":
        steps = 1
    given = {} if single else {"steps": steps, "step_size": STEPS[norm], "random_start": False}
    threat = THREATS[norm](STEPS[norm] if single else 10.0)
    y = torch.zeros(2, dtype=torch.long)
    out = attack(steep_outside(mask), x, y, threat, mask=mask, loss="margin", stop_early=False, **given)
    moved = threat.distance(out.x_adv, x)
    assert torch.equal(out.x_adv[:, ~mask], x[:, ~mask])
    torch.testing.assert_close(moved, torch.full_like(moved, steps * STEPS[norm]))
