"""The boundary attack as published: its candidate, its rates, and what it asks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import boundary
from fastadv.attacks.boundary import _adapt, _propose, _Walk
from fastadv.attacks.core.run import run
from fastadv.threat import L2

from ..nets import images, labels, linear
from ..watched import firm, watched

INF = torch.inf


@pytest.mark.parametrize("box", [(-9.0, 9.0), (0.0, 1.0)])
def test_the_candidate_lies_aside_on_the_sphere_and_then_nearer(box: tuple[float, float]) -> None:
    """By Pythagoras: aside by 0.3 of the distance, turned by atan 0.3; what the box takes off counts."""
    x = torch.full((3, 784), 0.5, dtype=torch.float64)
    points = x + (0.5 if box[0] == 0 else 0.1) * images(3, (784,)).sub(0.5)

    def rule(search: Any) -> None:
        search.rows.points, search.rows.spherical = points, search.full(0.3)
        search.rows.source = search.full(0.1)
        nearer, sphere = _propose(search, 1)
        radius = (points - x).norm(dim=1)
        torch.testing.assert_close((nearer - x).norm(dim=1), 0.9 * radius)
        along = ((sphere - x) * (points - x)).sum(1) / (sphere - x).norm(dim=1) / radius
        torch.testing.assert_close(along, torch.full_like(along, 1 / math.hypot(1, 0.3)), rtol=0.01, atol=0)
        torch.testing.assert_close(
            (nearer - x) / 0.9 / radius[:, None], (sphere - x) / (sphere - x).norm(dim=1)[:, None]
        )
        if box[0] < 0:
            torch.testing.assert_close((sphere - x).norm(dim=1), radius)
        assert not torch.equal(sphere, _propose(search, 2)[1])

    model, _ = firm()
    run(model, x, torch.zeros(3, dtype=torch.long), L2(INF, box), rule, rows=_Walk, minimum=True)


def followed(on_sphere: float, nearer: float, answers: int) -> tuple[list[float], list[float]]:
    """The sizes, over the first, after each of so many answers with these rates, evenly spread."""
    rows = _Walk()
    rows.spherical, rows.source = torch.ones(1), torch.ones(1)
    rows.on_sphere, rows.nearer = torch.full((1, 100), torch.nan), torch.full((1, 30), torch.nan)
    sizes: tuple[list[float], list[float]] = ([], [])
    for n in range(answers):
        given = [float(int((n + 1) * rate) > int(n * rate)) for rate in (nearer, on_sphere)]
        rows.met = torch.tensor(given[:1]).bool()
        _adapt(rows, torch.tensor(given[1:]).bool())
        sizes[0].append(float(rows.spherical))
        sizes[1].append(float(rows.source))
    return sizes


def test_sizes_follow_the_rates_of_full_windows() -> None:
    """Of 100 answers about the sphere, more than half or less than a fifth; of 30 candidates, a quarter and a
    tenth. A window that has changed a size is empty.
    """
    for on_sphere, nearer in ((0.3, 0.2), (0.49, 0.23), (0.21, 0.12)):
        spherical, source = followed(on_sphere, nearer, 250)
        assert set(spherical) == set(source) == {1.0}
    spherical, source = followed(0.6, 0.2, 250)
    assert spherical == source == [1.0] * 99 + [1.5] * 100 + [2.25] * 51
    spherical, source = followed(0.1, 0.2, 100)
    assert spherical[98:] == source[98:] == pytest.approx([1.0, 1 / 1.5])
    spherical, source = followed(0.3, 0.5, 60)
    assert set(spherical) == {1.0}
    assert source == [1.0] * 29 + [1.5] * 30 + [2.25]
    assert followed(0.3, 0.05, 30)[1][28:] == pytest.approx([1.0, 1 / 1.5])


def test_every_tenth_step_asks_about_the_sphere_too() -> None:
    """At the end of a step, so that it lies on the sphere on which the step began."""
    net, x = linear(3, 784).double(), images(1, (784,))
    y, others = labels(net, x), images(99, (784,), seed=9)
    model, seen = watched(net)
    start = others[labels(net, others) != y][:1]
    boundary(model, x, y, L2(INF), queries=56, starts=start, variant="published")
    assert [len(batch) for batch in seen] == [1] * (2 + 55 + 1)
    distances = [float((batch[0] - x[0]).norm()) for batch in seen[1:-1]]
    assert distances[1] == pytest.approx(0.99 * distances[0])
    assert distances[10] == pytest.approx(0.99 * distances[11])


def test_a_walk_that_has_converged_ends() -> None:
    net, x = linear(3, 784).double(), images(2, (784,))
    y: Tensor = labels(net, x)
    out = boundary(net, x, y, L2(INF), queries=500, variant="published", source_step=9e-8)
    assert out.success.all()
    assert out.forwards < 2 * 20
