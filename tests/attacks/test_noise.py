"""Random noise: what it looks like, how much of it is tried, and that the least of it is kept."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import ATTACKS, AttackResult, Status, salt_and_pepper
from fastadv.threat import L0, THREATS, Threat

from .nets import images, labeled, labels, linear, mlp
from .watched import watched

INF = torch.inf
PAIRS = [
    ("salt_and_pepper", "l0"),
    ("gaussian_noise", "l2"),
    ("uniform_noise", "l2"),
    ("uniform_noise", "linf"),
]


def saturated(size: int, inputs: int) -> Tensor:
    return (3 * images(size, (inputs,), dtype=torch.float32) - 1).clamp(0, 1)


def queried(name: str, model: Any, x: Tensor, threat: Threat, **options: Any) -> tuple[AttackResult, Tensor]:
    """The result, and the points that the model was asked about on the way: [queries, B, ...]."""
    (function, seen), y = watched(model), labels(model, x)
    out = ATTACKS[name].run(function, x, y, threat, **options)
    asked = [batch.view(len(x), -1, *x.shape[1:]) for batch in seen[1:] if len(batch) % len(x) == 0]
    return out, torch.cat(asked, 1).transpose(0, 1)


def never(x: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0]).expand(len(x), 2)


@pytest.mark.parametrize("box", [(0.0, 1.0), (-INF, INF)])
@pytest.mark.parametrize("inputs", [784, 3072])
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_noises_have_the_size_of_the_radius(name, norm, inputs, box):
    """Larger ones do not count, smaller ones succeed less; every noise is another."""
    x, most = images(3, (inputs,), dtype=torch.float32) / 3 + 0.3, {"l2": 3.0, "linf": 0.2}.get(norm, 4.5)
    threat = L0(most) if norm == "l0" else THREATS[norm](most, box)
    out, points = queried(name, never, x, threat, levels=4, repetitions=3)
    assert (out.status == Status.HELD).all()
    points = points[: 4 * 3]  # the verdict comes after them
    sizes = torch.stack([threat.distance(z, x) for z in points])
    assert (sizes <= most * (1 + 1e-6)).all()
    assert (sizes >= (4 if norm == "l0" else 0.98 * most)).all()
    signs = (points - x).sign().flatten(2)
    for one, other in ((a, b) for i, a in enumerate(signs) for b in signs[:i]):
        assert (one != other).any(1).all()
    assert not torch.equal(signs[0, 0], signs[0, 1])


def test_salt_and_pepper_sends_pixels_to_the_ends() -> None:
    x = saturated(4, 784)
    mask = torch.arange(784) < 500
    _, points = queried("salt_and_pepper", never, x, L0(INF), levels=4, repetitions=2, mask=mask)
    moved = points != x
    assert set(points[moved].tolist()) == {0.0, 1.0}
    assert not moved[..., 500:].any()
    inside = (x > 0) & (x < 1)
    rose = (points == 1)[:-1, inside & mask] & moved[:-1, inside & mask]
    assert 0.45 < float(rose.float().sum() / moved[:-1, inside & mask].float().sum()) < 0.55
    # the size says how many move, or all that can do; half of those at an end can
    assert moved[0].sum(1).eq(500 / 2).all()
    assert moved[4].sum(1).eq(191).all()  # (1 - 2 * 0.618 % 1) / 2 of the 500, rounded up
    assert (moved.sum(2) <= 500).all()


def test_salt_and_pepper_goes_on_to_one_coordinate() -> None:
    """The first pixel decides alone. What cannot be bettered leaves, and asks no more of the model."""

    def model(z: Tensor) -> Tensor:
        return torch.stack([torch.full((len(z),), 0.5), z[:, 0]], 1)

    out = salt_and_pepper(
        model, torch.zeros(8, 12), torch.zeros(8).long(), L0(INF), levels=500, repetitions=4
    )
    assert out.distance.tolist() == [1] * 8
    assert out.forwards < 8 * 200


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_only_smaller_noise_is_tried_after_a_success(name: str, norm: str) -> None:
    x, threat = saturated(1, 784), THREATS[norm](INF)
    model = linear(3, 784)
    out, points = queried(name, model, x, threat, levels=60, repetitions=3)
    assert out.forwards == 60 * 3 + 2
    y, best, breaks = labels(model, x), INF, 0
    for tried in points[: 60 * 3].split(3):
        distance = threat.distance(tried[:, 0], x.expand(3, -1))
        if best < INF:
            assert (distance < best * (1 + 1e-6)).all()
        met = labels(model, tried[:, 0]) != y
        if met.any():
            best, breaks = min(best, float(distance[met].min())), breaks + 1
    assert breaks > 3
    assert float(out.distance) == pytest.approx(best)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS[1:])
def test_a_success_shrinks_to_the_boundary(name: str, norm: str) -> None:
    model, x, y = labeled(mlp(inputs=784), saturated(6, 784).double())
    out = ATTACKS[name].run(model, x, y, THREATS[norm](INF), levels=100, repetitions=4)
    assert out.success.all()
    assert (labels(model, x + 0.99 * (out.x_adv - x)) == y).all()
