"""Linear models, where the nearest boundary is known: attacks must reach it, and not more."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastadv.attacks import AttackResult, Status, bim, fgsm, mim, pgd
from fastadv.threat import L2, Linf

from .nets import THREATS, Case, labels, linear

DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def two_classes(size: int) -> tuple[torch.nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    """A linear model, samples far from the edges of the box, labels, and distances to the boundary."""
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
    # a step too long for the curvature of the model lowers the loss, and is still the fast gradient sign
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


def wide(size: int, classes: int) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A linear model of D = 3,072 in float64, samples far from the edges of the box, and their labels."""
    model = linear(classes, 3072).double()
    noise = torch.randn(size, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    x = 0.5 + 0.02 * noise
    return model, x, labels(model, x)


def nearest(model: torch.nn.Module, x: Tensor, y: Tensor, norm: str, targets: Tensor | None) -> Tensor:
    """[B] the distance to the boundary with the target, or to the nearest one: margin over dual norm."""
    weight, logits = model[1].weight.detach(), model(x).detach()  # type: ignore[index]
    ahead = logits.gather(1, y[:, None]) - logits
    lengths = (weight[y][:, None] - weight).norm(p=DUAL[norm], dim=2)
    distance = torch.where(torch.arange(logits.shape[1]) == y[:, None], torch.inf, ahead / lengths)
    return distance.amin(1) if targets is None else distance.gather(1, targets[:, None]).squeeze(1)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "margin", "cw", "dlr"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("ascent", [fgsm, bim, pgd, mim])
def test_the_threshold_in_the_dimension_of_images(
    ascent: Callable[..., AttackResult], norm: str, targeted: bool, loss: str
) -> None:
    """Two classes, D = 3,072: each attack crosses the boundary at 1.02 of its distance, never at 0.98."""
    model, x, y = wide(6, 2)
    targets = 1 - y if targeted else None
    distance = nearest(model, x, y, norm, targets)
    steps = {} if ascent is fgsm else {"steps": 25}
    for scale, breaks in ((1.02, True), (0.98, False)):
        radius = distance * scale
        out = ascent(model, x, y, THREATS[norm](radius), targets=targets, loss=loss, **steps)
        assert torch.equal(out.success, torch.full((6,), breaks))
        assert (out.status == (Status.BROKEN if breaks else Status.HELD)).all()
        assert THREATS[norm](radius).contains(out.x_adv, x).all()
    # at the very distance, the best point of the ball lies on the boundary
    whole = ascent(
        model, x, y, THREATS[norm](distance), targets=targets, loss="margin", stop_early=False, **steps
    )
    before = (model(x).detach().gather(1, y[:, None]) - model(x).detach().gather(1, 1 - y[:, None])).squeeze(
        1
    )
    assert (whole.loss.abs() <= 0.02 * before.double()).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("ascent", [bim, pgd, mim])
def test_ten_classes_in_the_dimension_of_images(ascent: Callable[..., AttackResult], norm: str) -> None:
    """No attack breaks what lies below the nearest boundary; the margin loss breaks all at 1.25 of it."""
    model, x, y = wide(12, 10)
    distance = nearest(model, x, y, norm, None)
    below = ascent(model, x, y, THREATS[norm](distance * 0.99), steps=20, loss="margin", restarts=2)
    assert not below.success.any()
    above = ascent(model, x, y, THREATS[norm](distance * 1.25), steps=20, loss="margin", restarts=2)
    assert above.success.all()


@pytest.mark.parametrize("ascent", [bim, mim])
def test_best_points_by_hand(ascent: Callable[..., AttackResult]) -> None:
    """Every step goes straight on: without early stop the best point is the last one, the corner."""
    model, x, y = wide(4, 2)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()  # type: ignore[index]
    away = torch.where(y == 1, -1.0, 1.0).double()[:, None] * weight
    for norm, direction in (("linf", away.sign()), ("l2", away / away.norm(dim=1, keepdim=True))):
        radius = torch.tensor([0.01, 0.02, 0.03, 0.04], dtype=torch.float64)
        out = ascent(model, x, y, THREATS[norm](radius), steps=5, stop_early=False)
        best = x + (radius[:, None] * direction).reshape(x.shape)
        torch.testing.assert_close(out.x_adv, best, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            out.loss, torch.nn.functional.cross_entropy(model(best), y, reduction="none")
        )
