"""Linear models, where the nearest boundary is known: attacks must reach it, and not more."""

import pytest
import torch
from torch import Tensor

from fastadv.attacks import Status, fgsm
from fastadv.threat import L2, Linf

from .nets import THREATS, Case, linear

DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def two_classes(size: int) -> tuple[torch.nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    """A linear model, samples far from the edges of the box, labels, and each sample's distance to the boundary."""
    model = linear(2).double()
    x = 0.5 + 0.02 * torch.randn(
        size, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    weight, bias = (
        (model[1].weight[1] - model[1].weight[0]).detach(),
        (model[1].bias[1] - model[1].bias[0]).detach(),
    )
    with torch.no_grad():
        model[1].bias.zero_()
        model[1].bias[0] = float(weight.sum() / 2) + 0.02
    gap = x.flatten(1) @ weight - model[1].bias[0].detach()
    del bias
    return model, x, (gap > 0).long(), {norm: gap.abs() / weight.norm(p=p) for norm, p in DUAL.items()}


@pytest.mark.parametrize(("scale", "breaks"), [(1.03, True), (0.97, False)])
def test_exactly_what_can_be_broken(attack: Case, norm: str, scale: float, breaks: bool) -> None:
    if norm not in DUAL:
        pytest.skip("no closed form")
    model, x, y, distance = two_classes(12)
    out = attack(
        model, x, y, THREATS[norm](distance[norm] * scale), **({"steps": 40} if attack.takes("steps") else {})
    )
    assert torch.equal(out.success, torch.full((12,), breaks))
    assert (out.status == (Status.BROKEN if breaks else Status.HELD)).all()


def test_fgsm_is_the_sign() -> None:
    model, x, y, _ = two_classes(6)
    weight = model[1].weight[1] - model[1].weight[0]  # type: ignore[index]
    away = torch.where(y == 1, -1.0, 1.0)[:, None] * weight.sign()
    out = fgsm(model, x, y, Linf(0.25))
    torch.testing.assert_close(out.x_adv, x + 0.25 * away.reshape(x.shape).detach(), rtol=0, atol=1e-12)
    out = fgsm(model, x, y, L2(0.25))
    along = (torch.where(y == 1, -1.0, 1.0)[:, None] * weight / weight.norm()).reshape(x.shape).detach()
    torch.testing.assert_close(out.x_adv, x + 0.25 * along, rtol=0, atol=1e-12)


def test_fgsm_returns_the_step_where_it_held() -> None:
    # a step too long for the curvature of the model makes the loss smaller, and is still the fast gradient sign
    def model(x: Tensor) -> Tensor:
        wave = torch.sin(20 * x.flatten(1).sum(1))
        return torch.stack([1.5 - 0 * wave, wave], 1)

    x = torch.full((1, 2), 0.5)
    out = fgsm(model, x, torch.tensor([0]), Linf(0.1))
    assert not out.success
    torch.testing.assert_close((out.x_adv - x).abs(), torch.full_like(x, 0.1))


def test_targets_are_climbed() -> None:
    model, x, y, distance = two_classes(8)
    out = fgsm(model, x, y, Linf(distance["linf"] * 1.01), targets=1 - y)
    assert out.success.all()
    torch.testing.assert_close(out.distance, (distance["linf"] * 1.01).float())
