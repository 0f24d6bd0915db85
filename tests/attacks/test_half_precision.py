"""Samples in half precision: the search runs in float32, and successes are those of the tensors returned."""

import math
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import ATTACKS, AttackResult, Status, bim, nes
from fastadv.threat import THREATS, Linf, Threat

pytestmark = pytest.mark.slow
SHAPES = {784: (1, 28, 28), 3072: (3, 32, 32)}
# radii for which half precision is coarse: a pixel's share of it is below the spacing of bfloat16 near 1
RADIUS = {"linf": 0.009, "l2": 0.25, "l1": 2.0, "l0": 6.0}
PAIRS = [(name, norm) for name, entry in ATTACKS.items() for norm in entry.norms if name != "autoattack"]

# in fewer steps, as in their quick settings, these are too far from the minimum to compare precisions
STEPS = {"cw": 40, "ead": 40, "lbfgs": 30, "pdgd": 60, "pdpgd": 60}
LONGER: dict[str, Any] = {name: {"steps": steps} for name, steps in STEPS.items()}
LONGER["minimum_radius"] = {"attack": partial(bim, steps=20), "searches": 8}


@cache
def problem(size: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Images with saturated pixels that all half precisions hold, on a net that answers steeply."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 24), nn.Tanh(), nn.Linear(24, 4))
    with torch.no_grad():
        net[1].weight.mul_(3)
        net[3].weight.mul_(3)
    x = torch.rand(8, *SHAPES[size], generator=torch.Generator().manual_seed(1))
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x)).bfloat16().half().bfloat16().float()
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def attacked(name: str, norm: str, size: int, dtype: torch.dtype) -> tuple[AttackResult, Threat]:
    entry, (net, x, y) = ATTACKS[name], problem(size)
    threat = THREATS[norm](math.inf if entry.minimal else RADIUS[norm])
    return entry.run(net, x.to(dtype), y, threat, **{**entry.quick, **LONGER.get(name, {})}), threat


@pytest.mark.parametrize(("name", "norm"), PAIRS, ids=[f"{name}-{norm}" for name, norm in PAIRS])
def test_nearly_as_strong_as_in_float32(name: str, norm: str) -> None:
    """In bfloat16, the coarsest. In L2, where steps of a pixel are the smallest, of D = 3,072, else of 784.

    Medians within 3 %; for Linf, whose distance is one of the grid, within 5 % and one spacing.
    Attacks without gradients take another way where one decision differs: there it is 20 % and one sample.
    """
    size = 3072 if norm == "l2" else 784
    net, x, y = problem(size)
    (fine, threat), (out, _) = (attacked(name, norm, size, dtype) for dtype in (x.dtype, torch.bfloat16))
    assert out.x_adv.dtype == torch.bfloat16
    assert threat.contains(out.x_adv, x.bfloat16()).all()
    with torch.no_grad():
        assert torch.equal(out.success, net(out.x_adv.float()).argmax(1) != y)
    guided = ATTACKS[name].knowledge == "gradient"
    if ATTACKS[name].minimal:
        assert out.success.sum() >= fine.success.sum() - int(not guided)
        factor, more = (1.05, torch.finfo(torch.bfloat16).eps / 2) if norm == "linf" else (1.03, 0.0)
        factor = factor if guided else 1.2
        assert float(out.distance.median()) <= factor * float(fine.distance.median()) + more
    else:
        assert out.success.sum() >= fine.success.sum() - 1


def test_gradients_beyond_the_range_of_float16_are_finite() -> None:
    """Elements of 1e6 have room in float32, and those of 1e-9 lead somewhere."""
    for size in (1e6, 1e-9):
        model = nn.Linear(784, 2)
        with torch.no_grad():
            model.weight.copy_(torch.stack([torch.zeros(784), torch.full((784,), size)]))
            model.bias.copy_(torch.tensor([size * 784 * 0.5 + size * 10, 0.0]))
        x = torch.full((3, 784), 0.5, dtype=torch.float16)
        out = ATTACKS["pgd"].run(model, x, torch.zeros(3, dtype=torch.long), Linf(0.1), steps=10)
        assert (out.status == Status.BROKEN).all()
        assert not out.zero_gradient.any()


def test_probes_are_finer_than_the_samples() -> None:
    """Differences over 0.001 tell the gradient, although bfloat16 does not tell 0.75 from 0.751."""
    net, x, y = problem(784)
    options = {"queries": 404, "directions": 100, "stop_early": False}
    coarse, fine = (nes(net, z, y, Linf(0.009), **options).loss for z in (x.bfloat16(), x))
    with torch.no_grad():
        top = net(x).topk(2).values
    gained, possible = coarse - (top[:, 1] - top[:, 0]), fine - (top[:, 1] - top[:, 0])
    assert (gained > 0.5 * possible).float().mean() > 0.7


@pytest.mark.parametrize(("dtype", "high"), [(torch.float16, 0.7), (torch.bfloat16, 0.1)], ids=str)
@pytest.mark.parametrize(("name", "norm"), [("pgd", "l1"), ("pgd", "l2"), ("apgd", "l1"), ("fab", "linf")])
def test_a_box_that_half_precision_does_not_hold(name, norm, dtype, high):
    """Its end is more there: a coordinate that rounding moves to it does not leave the ball."""
    net, x, y = problem(784)
    entry, x = ATTACKS[name], (x * high).to(dtype)
    for radius in (RADIUS[norm] * high, 16 * RADIUS[norm] * high):
        threat = THREATS[norm](radius, (0.0, high))
        out = entry.run(lambda z: net(z.float() / high), x, y, threat, **entry.quick)
        assert not out.flags
        assert threat.contains(out.x_adv, x).all()
        with torch.no_grad():
            assert torch.equal(out.success, net(out.x_adv.float() / high).argmax(1) != y)
        assert out.success.any()
