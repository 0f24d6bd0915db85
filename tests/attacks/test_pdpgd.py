"""PDPGD: its proximal operators against brute force, and what it refuses."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fastadv.attacks import pdgd, pdpgd
from fastadv.attacks.methods.geometry import cosine
from fastadv.attacks.pdpgd import _proximal_in_box as _proximal
from fastadv.attacks.pdpgd import _two_thirds
from fastadv.threat import L2, THREATS
from tests.attacks.nets import images, labels, mlp

ORDERS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}


def stand_in(norm: str, x: torch.Tensor) -> Any:
    none = torch.full((len(x),), torch.inf, dtype=x.dtype)
    best = SimpleNamespace(rank=-none, distance=none)
    return SimpleNamespace(
        threat=THREATS[norm](torch.inf), x=x, best=best, rows=SimpleNamespace(refining=False)
    )


@pytest.mark.parametrize("norm", list(ORDERS))
def test_no_point_near_the_proximal_one_is_better(norm: str) -> None:
    draw = torch.Generator().manual_seed(0)
    away = torch.randn(4, 784, generator=draw, dtype=torch.float64)
    by = torch.tensor([0.01, 0.3, 5.0, 1e4], dtype=torch.float64)
    # the weight counts for each coordinate in Linf
    weight = by * 784 if norm == "linf" else by

    def cost(z: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(z, ORDERS[norm], dim=1)
        return (z - away).square().sum(1) / 2 + weight * length

    nearest = _proximal(stand_in(norm, torch.zeros_like(away)), away.clone(), by)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(50):
            move = size * torch.randn(4, 784, generator=draw, dtype=torch.float64)
            assert (cost(nearest) <= cost(nearest + move) + 1e-9).all()
    for share in (0.0, 0.9, 1.1):
        assert (cost(nearest) <= cost(share * nearest) + 1e-9).all()
    assert torch.equal(nearest[3], torch.zeros_like(nearest[3]))


def test_the_sparse_operator_keeps_what_gains_enough() -> None:
    x = torch.tensor([[0.5, 0.9, 0.0, 1.0]], dtype=torch.float64)
    away = torch.tensor([[0.3, 0.8, -0.7, 0.05]], dtype=torch.float64)
    # inside the box 0.3, 0.1, 0 and 0 are left; they gain 0.09, 0.15, 0 and 0
    search = stand_in("l0", x)
    for by, kept in ((0.04, [0.3, 0.1, 0, 0]), (0.06, [0, 0.1, 0, 0]), (0.08, [0, 0, 0, 0])):
        out = _proximal(search, away.clone(), torch.tensor([by], dtype=torch.float64))
        torch.testing.assert_close(out, torch.tensor([kept], dtype=torch.float64))
    search.rows.refining, search.best.distance = True, torch.tensor([2.0], dtype=torch.float64)
    fewer = _proximal(search, away.clone(), torch.tensor([0.0], dtype=torch.float64))
    torch.testing.assert_close(fewer, torch.tensor([[0, 0.1, 0, 0]], dtype=torch.float64))


def test_the_operator_of_the_published_variant_in_l0() -> None:
    """Of z^(2/3) in place of the count: the largest root, or 0 where there is none."""
    size = torch.tensor([0.1, 0.7, 1.3, 2.9], dtype=torch.float64)
    for by in (0.05, 0.5, 2.0):
        z = _two_thirds(size, torch.full_like(size, by))
        torch.testing.assert_close((z - size) * z ** (1 / 3) + 2 / 3 * by * (z > 0), 0 * z)
        further = z[:, None] + torch.linspace(1e-3, 3, 300, dtype=torch.float64)
        assert ((further - size[:, None]) * further ** (1 / 3) + 2 / 3 * by > 0).all()
        assert (z > 0).tolist() == (size >= 4 * (2 * by / 9) ** 0.75).tolist()


@pytest.mark.slow
def test_few_steps_refine_what_they_found() -> None:
    model, x = mlp(), images(16)
    few, many = (pdpgd(model, x, labels(model, x), L2(torch.inf), steps=steps) for steps in (50, 300))
    assert few.distance.isfinite().all()
    assert (few.distance < 1.01 * many.distance).all()


def plane(normal: torch.Tensor, bias: float) -> nn.Sequential:
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
