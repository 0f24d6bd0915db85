"""HopSkipJump: its estimate of the normal, its steps, its budget, and the distances of linear models."""

import math
from collections.abc import Callable
from itertools import count

import pytest
import torch
from torch import Tensor

from fastadv.attacks import hopskipjump
from fastadv.threat import THREATS

from .nets import images
from .watched import watched

INF = torch.inf
Model = Callable[[Tensor], Tensor]


SIZE = 100


@pytest.mark.parametrize(("norm", "order", "halvings"), [("l2", 2.0, 10), ("linf", INF, 14)])
@pytest.mark.parametrize(("thickness", "queries"), [(INF, 400), (0.01, 400), (1e-9, 90)])
def test_what_is_asked_step_by_step(
    norm: str, order: float, halvings: int, thickness: float, queries: int
) -> None:
    """With D coordinates, bisections come within D^-1.5 or D^-2, B_t = 30 sqrt(t), delta = d / D but 0.1 at
    first, and steps are d / sqrt(t), halved until they succeed, or leave no query but those of the bisection.

    The other class is a layer, which long steps leap over.
    """
    assert halvings == math.ceil((1.5 if norm == "l2" else 2) * math.log2(SIZE))
    x, others, normal = images(1, (SIZE,)), images(99, (SIZE,), seed=9), images(1, (SIZE,), seed=8)[0] - 0.5

    def depth(z: Tensor) -> Tensor:
        return (z - x) @ normal - 0.1

    def net(z: Tensor) -> Tensor:
        wrong = ((depth(z) > 0) & (depth(z) <= thickness)).to(z.dtype)
        return torch.stack([1 - wrong, wrong], 1)

    model, seen = watched(net)
    y, far_off = torch.zeros(1).long(), others[depth(others) > 0][:1]
    start = x + (far_off - x) * (min(thickness / 2, float(depth(far_off))) + 0.1) / (depth(far_off) + 0.1)
    hopskipjump(
        model, x, y, THREATS[norm](INF), queries=queries, starts=start, directions=30, variant="published"
    )
    flow = iter(torch.cat(seen[1:]))

    def far(point: Tensor) -> float:
        return float((point - x[0]).norm(p=order))

    def wrong(point: Tensor) -> bool:
        return bool(net(point[None]).argmax())

    def bisected(point: Tensor) -> Tensor:
        low, high, best = 0.0, 1.0, point
        for _ in range(halvings):
            asked, share = next(flow), (low + high) / 2
            away = point - x[0]
            reach = share * far(point)
            torch.testing.assert_close(
                asked, x[0] + (share * away if norm == "l2" else away.clamp(-reach, reach))
            )
            low, high, best = (low, share, asked) if wrong(asked) else (share, high, best)
        return best

    point = next(flow)
    assert torch.equal(point, start[0])
    before, point, left, halved = 0.1 * SIZE, bisected(point), queries - 1 - halvings, 0
    for step in count(1):
        left -= int(30 * math.sqrt(step)) + 1
        if left < halvings:
            break
        probes = torch.stack([next(flow) for _ in range(int(30 * math.sqrt(step)))])
        ways = (probes - point) / (before / SIZE)
        assert (ways.norm(dim=1) <= 1 + 1e-6).all()
        whole = ((probes > 0) & (probes < 1)).all(1)  # the box cuts off the others
        assert step > 1 or norm == "linf" or whole.float().mean() > 0.2
        assert (ways.norm(dim=1)[whole] > 1 - 1e-6).all()
        answers = net(probes)[:, 1] * 2 - 1
        mean = answers.mean()
        gradient = ((answers - (mean if mean.abs() < 1 else 0)) @ ways).div(len(ways))
        update = gradient / gradient.norm() if norm == "l2" else gradient.sign()
        size = far(point) / math.sqrt(step)
        while True:
            asked = next(flow)
            torch.testing.assert_close(asked, (point + size * update).clamp(0, 1))
            if wrong(asked):
                point = asked
            if wrong(asked) or left == halvings:
                break
            left, halved, size = left - 1, halved + 1, size / 2
        left -= halvings
        before, point = far(point), bisected(point)
    assert len(list(flow)) == 1  # the last verdict
    assert bool(halved) == (thickness < INF)


def test_probes_that_all_succeed_have_no_baseline() -> None:
    """Their mean answer is 1, and less that nothing would be left of them."""
    x = torch.full((1, SIZE), 0.5, dtype=torch.float64)

    def says(z: Tensor) -> Tensor:
        wrong = ((z - x).norm(dim=1) > 1e-9).to(z.dtype)
        return torch.stack([1 - wrong, wrong], 1)

    model, seen = watched(says)
    given = {"starts": images(1, (SIZE,)), "steps": 1, "directions": 30, "variant": "published"}
    hopskipjump(model, x, torch.zeros(1).long(), THREATS["l2"](INF), **given)
    flow = torch.cat(seen[1:])
    point, ways = flow[10], (flow[11:41] - flow[10]).mean(0)
    torch.testing.assert_close(flow[41], point + (point - x[0]).norm() * ways / ways.norm())
