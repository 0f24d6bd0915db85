"""Starting points of fmn, drawn to the boundary, and its restarts."""

from itertools import product
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import fmn
from fastadv.threat import THREATS

from ..contract.cases import two_classes
from ..nets import images, labels, mlp
from ..watched import watched

pytestmark = pytest.mark.slow
EACH = pytest.mark.parametrize(("norm", "variant"), [*product(THREATS, ("fastadv", "published"))])


def asked(norm: str, variant: Any, model: Any, *args: Tensor, **more: Any) -> Any:
    """The points at which it asks for gradients, and its result."""
    function, seen = watched(model, gradients=True)
    return seen, fmn(function, *args, THREATS[norm](inf), steps=10, variant=variant, **more)


@EACH
def test_it_begins_near_the_boundary(norm: str, variant: str) -> None:
    """On a linear model: a thousandth of the way closer it would be no success. The second point is none."""
    x = images(3)
    model, weight = two_classes(x, 0.5)
    y, start = torch.zeros(3, dtype=torch.long), (weight > 0).double().expand(3, 16).view_as(x).clone()
    start[1] = 1 - start[1]
    seen, out = asked(norm, variant, model, x, y, starts=start)
    plain, without = asked(norm, variant, model, x, y)
    torch.testing.assert_close(seen[0][1], x[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.x_adv[1], without.x_adv[1])
    torch.testing.assert_close(plain[0], x, rtol=0, atol=1e-5)
    lead = (seen[0].flatten(1) @ weight - model[1].bias[0])[[0, 2]]
    share = ((start - x).flatten(1) @ weight)[[0, 2]]
    # in L0 a tenth halving leaves a coordinate of sixteen
    least = weight.abs().max() if norm == "l0" else 3e-3 * share
    assert (lead > -1e-4).all()
    assert (lead < least).all()
    assert out.success[[0, 2]].all()


@EACH
def test_restarts_begin_at_random_points_near_the_best(norm: str, variant: str) -> None:
    """By seed and sample number, within half the distance of the nearest success."""
    model, x = mlp(), images(4)
    y, ids = labels(model, x), torch.arange(4) + 7
    seen, out = asked(norm, variant, model, x, y, restarts=2, seed=3, ids=ids)
    first, alone = asked(norm, variant, model, x, y, ids=ids)
    second, threat = seen[len(first)], THREATS[norm](inf)
    near = {"linf": 0.3, "l2": 1.0, "l1": 5.0, "l0": 10.0}[norm]
    half = torch.where(alone.success, alone.distance, near) / 2
    threat = threat.with_radius(half.ceil() if norm == "l0" else half)
    point = threat.random_start(x, seed=3, ids=ids, draw=1)
    torch.testing.assert_close(second, point, rtol=0, atol=1e-5)
    assert (out.distance <= alone.distance).all()
    other, _ = asked(norm, variant, model, x, y, restarts=2, seed=4, ids=ids)
    assert not torch.equal(other[len(first)], second)


class Far(nn.Module):
    """Flat around gray, so that gradients say nothing there; class 1 where all is bright."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1)
        return torch.stack([0 * bright + 0.1, (bright - 0.7).clamp_min(0)], 1)


@EACH
def test_what_is_flat_at_x_is_broken_from_elsewhere(norm: str, variant: str) -> None:
    x, y = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    start = torch.ones_like(x)
    _, out = asked(norm, variant, Far(), x, y, starts=start)
    assert out.success.all()
    assert (out.distance < THREATS[norm](inf).distance(start, x)).all()
    assert not asked(norm, variant, Far(), x, y)[1].success.any()
