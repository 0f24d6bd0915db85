"""Linear models, where the nearest boundary is known: attacks must reach it, and not more."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import AttackResult, Status, apgd, bim, fgsm, mim, pgd
from fastadv.threat import THREATS, Linf

from .halfspaces import nearest, problem


def test_fgsm_returns_the_step_where_it_held() -> None:
    # a step too long for the curvature of the model lowers the loss, and is still the fast gradient sign
    def model(x: Tensor) -> Tensor:
        wave = torch.sin(20 * x.flatten(1).sum(1))
        return torch.stack([1.5 - 0 * wave, wave], 1)

    x = torch.full((1, 2), 0.5)
    out = fgsm(model, x, torch.tensor([0]), Linf(0.1))
    assert not out.success
    torch.testing.assert_close((out.x_adv - x).abs(), torch.full_like(x, 0.1))


def near_gray(size: int) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A linear model of D = 3,072 in float64, samples far from the edges of the box, and their labels."""
    model, x, _ = problem(3072, 2, size=size)
    x = 0.5 + 0.1 * (x.double() - 0.5)
    return model, x, model.double()(x).argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ascent", "loss"),
    [(fgsm, "ce"), (bim, "margin"), (pgd, "dlr"), (mim, "cw"), (apgd, "ce"), (apgd, "dlr")],
)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_threshold_in_the_dimension_of_images(
    ascent: Callable[..., AttackResult], loss: str, norm: str, targeted: bool
) -> None:
    """Two classes, D = 3,072: each attack crosses the boundary at 1.02 of its distance, never at 0.98."""
    model, x, y = near_gray(6)
    distance, _ = nearest(model, x, y, norm)
    given: dict[str, Any] = {"targets": 1 - y if targeted else None}
    given |= {} if ascent is fgsm else {"steps": 25}
    for scale, breaks in ((1.02, True), (0.98, False)):
        threat = THREATS[norm](distance * scale)
        out = ascent(model, x, y, threat, loss=loss, **given)
        assert (out.status == (Status.BROKEN if breaks else Status.HELD)).all()
        assert threat.contains(out.x_adv, x).all()
    # at the very distance, the best point of the ball lies on the boundary
    whole = ascent(model, x, y, THREATS[norm](distance), loss="margin", stop_early=False, **given)
    logits = model(x).detach()
    assert (whole.loss.abs() <= 0.02 * (logits[:, 0] - logits[:, 1]).abs()).all()


@pytest.mark.parametrize("ascent", [fgsm, bim, mim])
def test_best_points_by_hand(ascent: Callable[..., AttackResult]) -> None:
    """Every step goes straight on: without early stop the best point is the last one, the corner."""
    model, x, y = near_gray(4)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()  # type: ignore[index]
    away = torch.where(y == 1, -1.0, 1.0).double()[:, None] * weight
    given = {} if ascent is fgsm else {"steps": 5, "stop_early": False}
    for norm, direction in (("linf", away.sign()), ("l2", away / away.norm(dim=1, keepdim=True))):
        radius = torch.tensor([0.01, 0.02, 0.03, 0.04], dtype=torch.float64)
        out = ascent(model, x, y, THREATS[norm](radius), **given)
        best = x + radius[:, None] * direction
        torch.testing.assert_close(out.x_adv, best, rtol=0, atol=1e-9)
        loss = torch.nn.functional.cross_entropy(model(best), y, reduction="none")
        torch.testing.assert_close(out.loss, loss)
