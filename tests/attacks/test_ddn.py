"""DDN by hand. What it shares with others is in test_closed_forms.py."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import Status, ddn
from fastadv.losses import loss_and_grad
from fastadv.threat import L2
from tests.defenses import Quantize

from .nets import images, labeled, mlp
from .watched import watched


def path(model: Any, x: Tensor, y: Tensor, steps: int, **options: Any) -> list[Tensor]:
    """The points that the model is shown, x and the last verdict aside."""
    shown, seen = watched(model)
    ddn(shown, x, y, L2(math.inf), steps=steps, **options)
    return seen[1 : steps + 2]


def length(away: Tensor) -> Tensor:
    return away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("options", [{}, {"gamma": 0.2, "first_norm": 0.3, "step_size": 0.4}])
@pytest.mark.parametrize("loss", [None, "ce", "margin"])
def test_by_hand(options: dict[str, float], loss: str | None) -> None:
    model, x, y = labeled(mlp(), images(6))
    gamma = options.get("gamma", 0.05)
    radius = torch.full((6, 1, 1, 1), options.get("first_norm", 1.0)).double()
    z, steps, shrunk = x.clone(), 8, 0
    expected = [z]
    for step in range(steps):
        leaf = z.clone().requires_grad_()
        logits = model(leaf)
        by_logits = loss_and_grad(logits, y, loss or "ce_sharp")[1]
        (gradient,) = torch.autograd.grad(logits, leaf, by_logits)
        size = options.get("step_size", 1.0) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        away = z - x + size * gradient / length(gradient)
        wrong = (logits.argmax(1) != y).view(-1, 1, 1, 1)
        shrunk += int(wrong.sum())
        radius = torch.where(wrong, (1 - gamma) * radius, (1 + gamma) * radius)
        z = (x + radius * away / length(away)).clamp(0, 1)
        expected.append(z)
    assert 0 < shrunk < 6 * steps
    seen = path(model, x, y, steps, loss=loss, **options)
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected))


def test_the_norm_ends_at_the_farthest_corner_of_the_box() -> None:
    """Beyond, every point would be clipped to the corner, and the norm would take as long to come back."""

    def model(z: Tensor) -> Tensor:
        rising = z.flatten(1) @ torch.tensor([1.0, 0.1], dtype=z.dtype)
        return torch.stack([rising + 5, 2 * rising], 1)  # no point of the box is a success

    x, way = torch.full((1, 1, 1, 2), 0.5).double(), torch.tensor([1.0, 0.1]).double() / math.sqrt(1.01)
    z, steps = x, 20
    seen = path(model, x, torch.zeros(1, dtype=torch.long), steps, loss="margin")
    for step in range(steps):
        size = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        away = z - x + size * way
        z = (x + math.sqrt(0.5) * away / length(away)).clamp(0, 1)
        torch.testing.assert_close(seen[step + 1], z)


@pytest.mark.slow
def test_it_looks_around_where_the_gradient_is_zero() -> None:
    """Noise of growing norm, drawn afresh at each step, by the seed and the sample's number alone."""
    # a model of a few levels of each pixel: flat nearly everywhere
    stairs = nn.Sequential(Quantize(2), mlp(inputs=64, dtype=torch.float32))
    model, x, y = labeled(stairs, images(8, (64,), dtype=torch.float32))
    out, other = (ddn(model, x, y, L2(math.inf), steps=60, seed=seed) for seed in (0, 1))
    assert int((out.status == Status.BROKEN).sum()) >= 6
    assert out.zero_gradient.all()
    assert not torch.equal(out.x_adv, other.x_adv)
    part = torch.tensor([5, 2])
    some = ddn(model, x[part], y[part], L2(math.inf), steps=60, ids=part)
    torch.testing.assert_close(some.x_adv, out.x_adv[part])
    mask = torch.arange(64) < 40
    function, seen = watched(model)
    ddn(function, x, y, L2(math.inf), steps=10, mask=mask)
    away = torch.stack([z - x for z in seen if len(z) == len(x)])[2:11]
    assert not away[:, :, 40:].any()
    assert (away.norm(dim=2) > 0.3).all()
    assert float(torch.nn.functional.cosine_similarity(away[1:], away[:-1], dim=2).abs().median()) < 0.4
