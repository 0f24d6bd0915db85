"""FAB: its first step by hand, linear models in the dimensions of images, and its restarts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import Status, fab
from fastadv.ops import to_hyperplane
from fastadv.threat import L2, THREATS

from .nets import images, labels, mlp
from .watched import watched

NORMS = ["linf", "l2", "l1"]


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("bias", "overshoot", "backward", "steps"),
    [(0.4, 1.2, 0.5, 2), (0.1, 1.05, 0.9, 100), (0.1, 1.05, 0.9, 30)],
)
def test_steps_by_hand(norm: str, bias: float, overshoot: float, backward: float, steps: int) -> None:
    """Two classes, so that only one boundary can be meant; what is idle for six steps goes to a corner."""
    net, x = mlp(2), images(10)
    model, seen = watched(net)
    y, order, box = labels(net, x), THREATS[norm].order, (0.0, 1.0)
    given = {"bias": bias, "overshoot": overshoot, "backward": backward}
    fab(model, x, y, THREATS[norm](torch.inf), steps=steps, **given)
    points, both, corners = x, [], 0
    explored = min(0.4 * steps, steps - {"linf": 60, "l2": 30, "l1": 80}[norm])
    idle, least = [0] * len(x), [torch.inf] * len(x)
    for step in range(steps):
        leaf = points.clone().requires_grad_()
        logits = net(leaf)
        lack = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)
        (normal,) = torch.autograd.grad(-lack.sum(), leaf)
        lack = lack.detach()
        d = to_hyperplane(points, normal, lack, norm, box)
        d_x = to_hyperplane(x, normal, lack + (normal * (points - x)).flatten(1).sum(1), norm, box)
        one, two = (torch.linalg.vector_norm(away.flatten(1), order, dim=1) for away in (d, d_x))
        a = (one / (one + two)).clamp_max(bias).view(-1, 1, 1, 1)
        ahead = ((1 - a) * (points + overshoot * d) + a * (x + overshoot * d_x)).clamp(*box)
        left = [count >= 6 and step < explored for count in idle]
        for row in (place for place, leaves in enumerate(left) if leaves):
            ahead[row] = torch.where(normal[row] == 0, points[row], (normal[row] > 0).to(x))
        points, corners = ahead, corners + sum(left)
        assert any(z.shape == x.shape and torch.allclose(z, points, rtol=0, atol=1e-7) for z in seen)
        changed = labels(net, points) != y
        both.append(changed)
        for row in range(len(x)):
            away = float(torch.linalg.vector_norm((points - x)[row].flatten(), order))
            if not changed[row] or left[row]:
                away = torch.inf
            idle[row] = 0 if left[row] or away < 0.99 * least[row] else idle[row] + 1
            least[row] = torch.inf if left[row] else min(least[row], away)
        points = torch.where(changed.view(-1, 1, 1, 1), x + backward * (points - x), points)
    assert torch.stack(both).any()
    assert (corners > 0) == (steps > 30)


def certain(net: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        net[-1].bias[0] += 1e4
    return net


def starts(norm: str, **options: Any) -> tuple[Tensor, Tensor]:
    """The first points of three restarts on four equal samples, less x; the distance after the first."""
    net, x = mlp(3), images(1).expand(4, -1, -1, -1).contiguous()
    (model, seen), y = watched(net), labels(net, x)
    options = {"ids": torch.tensor([0, 1, 7, 9]), **options}
    fab(model, x, y, THREATS[norm](torch.inf), steps=1, restarts=3, **options)
    # passes: a verdict, then a gradient, a decision and four at the end of each restart
    first = [(seen[1 + 6 * restart] - x).flatten(1) for restart in range(3)]
    assert (first[0] == 0).all()
    return torch.stack(first[1:]), fab(net, x, y, THREATS[norm](torch.inf), steps=1).distance


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_where_restarts_begin(norm: str) -> None:
    """Anew for each sample, restart and seed; at most half as far as the nearest success so far."""
    away, once = starts(norm)
    assert (torch.pdist(away.flatten(0, 1)) > 1e-3).all()
    lengths = torch.linalg.vector_norm(away, THREATS[norm].order, dim=2)
    assert (lengths <= once / 2 + 1e-6).all()
    assert (lengths > once / 4).any()
    assert torch.equal(starts(norm)[0], away)
    assert ((starts(norm, seed=1)[0] - away).norm(dim=2) > 1e-3).all()


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_in_a_mask_begin_as_far_away(norm: str) -> None:
    """Their length is that of what may move, ten coordinates of 784; by default in units of the box."""
    net, x = certain(mlp(3, inputs=784)), 4 * images(3, (784,)) - 1
    mask = torch.arange(784) < 10
    usual = 4 * {"linf": 0.15, "l2": 0.5, "l1": 2.5}[norm]
    several = torch.tensor([0.02, 0.1, 0.0])
    for reach, wanted in ((None, usual), (0.1, torch.tensor(0.05)), (several, several / 2)):
        (model, seen), y = watched(net), labels(net, x)
        # the radius has no part in it
        threat = THREATS[norm](1e-6, (-1.0, 3.0))
        fab(model, x, y, threat, steps=1, restarts=2, mask=mask, restart_radius=reach)
        # after the verdict, and a gradient and a decision of the restart that begins at x
        away = (seen[3] - x).flatten(1)
        assert not away[:, 10:].any()
        length = torch.linalg.vector_norm(away, THREATS[norm].order, dim=1)
        assert (length <= wanted * (1 + 1e-6)).all()
        assert (length >= wanted * 0.4).all()


def test_the_last_search_is_one_of_false_position() -> None:
    """Where the margin is curved it takes the side that still holds the boundary, and gains as it can."""

    class Curved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([0.25 + 0 * x[:, 0], x[:, 0] ** 2], 1)

    x = torch.full((1, 4), 0.1)
    model, seen = watched(Curved())
    out = fab(model, x, torch.zeros(1, dtype=torch.long), L2(torch.inf, (-3.0, 3.0)), steps=2, bias=0.0)
    nearest, tries = seen[-5], seen[-4:-1]
    low, high, margin = 0.0, 1.0, lambda z: float(z[0, 0] ** 2 - 0.25)
    below, above = margin(x), margin(nearest)
    for tried in tries:
        share = float((tried - x)[0, 0] / (nearest - x)[0, 0])
        zero = below / (below - above)
        assert share == pytest.approx(low + (high - low) * (zero + 0.1 * (1 - zero)), abs=1e-5)
        low, high = (low, share) if margin(tried) > 0 else (share, high)
        below, above = (below, margin(tried)) if margin(tried) > 0 else (margin(tried), above)
    assert 0.4 <= float(out.distance) <= float((nearest - x).norm())


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_in_a_box_without_an_end_nothing_leaves_for_its_corner(norm: str) -> None:
    net, x, far = mlp(), images(6), []
    y = labels(net, x)
    net.register_forward_pre_hook(lambda _, points: far.append(float(points[0].detach().abs().max())))
    for low, high, targets in ((-torch.inf, torch.inf, None), (-10.0, torch.inf, (y + 1) % 3)):
        out = fab(net, x, y, THREATS[norm](torch.inf, (low, high)), targets=targets)
        assert not (out.status == Status.FAILED).any()
    assert max(far) < 100
