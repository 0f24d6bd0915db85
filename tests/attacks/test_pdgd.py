"""PDGD: its steps by hand, the boxes and precisions it works in, and what it refuses."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from fastadv.attacks import pdgd
from fastadv.attacks.methods.geometry import cosine
from fastadv.errors import InputError
from fastadv.threat import L2

from .halfspaces import nearest, problem
from .nets import images, labels, mlp


def plane(normal: torch.Tensor, bias: float) -> nn.Sequential:
    """Class 1 where normal . z > bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(normal), 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros_like(normal), normal]))
        model[1].bias.copy_(torch.tensor([bias, 0.0]))
    return model


def test_two_steps_by_hand() -> None:
    """The second one feels the pull of the first, which the box bent, and alone reaches the other class."""
    x = torch.tensor([[0.9, 0.2, 0.6]], dtype=torch.float64)
    normal = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    # half of the normal, as the mean begins at zero, but the first coordinate has room for 0.1 alone
    first = torch.tensor([0.1, 0.4, 0.0], dtype=torch.float64)
    # it is no success, so the weight has fallen
    pull = 5 * math.exp(-5 / 2) * first / math.sqrt(0.17)
    mean = 0.5 * 0.5 * normal + 0.5 * (normal - pull)
    second = (x[0] + first + cosine(1, 2, 0.01) * mean).clamp(0, 1)
    model = plane(7 * normal, 7 * float(normal @ (x[0] + (first + second - x[0]) / 2)))
    out = pdgd(model, x, torch.tensor([0]), L2(math.inf), steps=2, weight=5)
    torch.testing.assert_close(out.x_adv[0], second, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [784, 3072])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 2.0)], ids=["unit", "wide"])
def test_nearest_point_of_a_linear_model(inputs: int, box: tuple[float, float]) -> None:
    model, x, y = problem(inputs, 10, box=box)
    distance, _ = nearest(model, x, y, "l2", box=box)
    out = pdgd(model, x, y, L2(math.inf, box), steps=150)
    assert out.success.all()
    ratio = out.distance / distance
    assert ratio.min() >= 1 - 1e-5
    # a class that is not the nearest, but nearly, may be taken
    assert ratio.max() <= 1.05
    assert ratio.median() <= 1.002


@pytest.mark.slow
def test_a_sample_without_gradient_is_held_beside_others() -> None:
    """Zero is a maximum of -|z|: no gradient leads away from it."""
    model, x, y = problem(784, 3)
    dead = torch.zeros(len(x), dtype=torch.bool)
    dead[2] = True
    x[dead] = 0.0

    def flat_at_zero(z: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(z)
        still = torch.nn.functional.one_hot(y[2], 3).float()
        return torch.where((z.detach().abs().sum(1, keepdim=True) == 0), still, logits)

    out = pdgd(flat_at_zero, x, y, L2(math.inf), steps=60)
    assert torch.equal(out.success, ~dead)
    assert torch.equal(out.x_adv[dead], x[dead])
    assert torch.equal(out.zero_gradient, dead)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision(dtype: torch.dtype) -> None:
    """What is found is a success of the points as the caller's format holds them, little further away."""
    model, x, y = problem(784, 10)
    x = x.to(dtype)
    distance, _ = nearest(model, x.float(), y, "l2")
    out = pdgd(lambda z: model(z.float()), x, y, L2(math.inf), steps=150)
    assert out.x_adv.dtype == dtype
    assert (model(out.x_adv.float()).argmax(1) != y).all()
    assert (out.distance <= distance * 1.05).all()


@pytest.mark.slow
def test_a_mask_and_a_target_at_once() -> None:
    model, x, y = problem(784, 3, size=24)
    targets = (y + 1) % 3
    mask = torch.rand(1, 784, generator=torch.Generator().manual_seed(3)) < 0.5
    out = pdgd(model, x, y, L2(math.inf), steps=150, targets=targets, mask=mask)
    assert (model(out.x_adv).argmax(1) == targets).all()
    assert torch.equal(out.x_adv[:, ~mask[0]], x[:, ~mask[0]])
    # in the open coordinates alone the model is linear too, its bias what the others leave
    inner = nn.Sequential(nn.Flatten(), nn.Linear(int(mask.sum()), 3))
    with torch.no_grad():
        inner[1].weight.copy_(model[1].weight[:, mask[0]])
    for row in range(len(x)):
        with torch.no_grad():
            inner[1].bias.copy_(model[1].bias + model[1].weight[:, ~mask[0]] @ x[row, ~mask[0]])
        one = slice(row, row + 1)
        distance, point = nearest(inner, x[one, mask[0]], y[one], "l2", targets[one])
        assert out.distance[row] >= distance * (1 - 1e-5)
        if bool(inner.double()(point).scatter(1, y[one, None], -math.inf).argmax(1) == targets[one]):
            assert out.distance[row] <= distance * 1.05
        inner.float()


@pytest.mark.parametrize(
    ("message", "given"),
    [
        ("steps: expected an integer >= 1", {"steps": 0}),
        ("step_size: expected a number > 0", {"step_size": 0}),
        ("weight: expected a number > 0", {"weight": 0}),
        ("loss: expected", {"loss": "hinge"}),
    ],
)
def test_bad_arguments(message: str, given: dict[str, Any]) -> None:
    model, x = mlp(), images(2)
    with pytest.raises(InputError, match=message):
        pdgd(model, x, labels(model, x), L2(math.inf), **{"steps": 2, **given})
