"""The pointwise attack as published, query by query, against a plain transcription of its description."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import pointwise
from fastadv.attacks.pointwise import _salt_and_pepper
from fastadv.threat import L0, L2, THREATS

from ..nets import images, labels, mlp
from ..watched import watched

INF = torch.inf
SIZE = 30


def described(wrong: Callable[[Tensor], bool], x: Tensor, point: Tensor, bisects: bool) -> list[Tensor]:
    """The points that it asks from `point` [D] on: a random order is the next random one of those untried."""
    asked: list[Tensor] = []
    seed = rng.derive(0, "pointwise", 0)

    def ask(index: int, value: Tensor) -> bool:
        nonlocal point
        asked.append(point.clone())
        asked[-1][index] = value
        met = wrong(asked[-1])
        point = asked[-1].clone() if met else point
        return met

    def chosen(untried: list[int]) -> int:
        keys = rng.uniform(SIZE, seed, torch.tensor([0]), len(asked))[0]
        return max(untried, key=lambda index: float(keys[index]))

    def changed() -> list[int]:
        return (point != x).nonzero().flatten().tolist()

    untried = changed()
    while untried:
        index = chosen(untried)
        untried = changed() if ask(index, x[index]) else [other for other in untried if other != index]
    improved = bisects
    while improved:
        improved, untried = False, changed()
        while untried:
            index = chosen(untried)
            failed, met = x[index], ask(index, x[index])
            improved |= met
            for _ in range(0 if met else 10):
                middle = (point[index] + failed) / 2
                met = ask(index, middle)
                failed, improved = failed if met else middle, improved | met
            untried.remove(index)
    return asked


@pytest.mark.parametrize("norm", ["l0", "l2"])
def test_each_query_is_that_of_the_description(norm: str) -> None:
    net, several, others = mlp(inputs=SIZE), images(5, (SIZE,)), images(99, (SIZE,), seed=9)
    count = 0
    for x in several.split(1):
        y = labels(net, x)
        start = others[labels(net, others) != y][:1]
        model, seen = watched(net)
        pointwise(model, x, y, THREATS[norm](INF), starts=start, restarts=1, variant="published")
        asked = described(
            lambda point, y=y: bool(labels(net, point[None]) != y), x[0], start[0].clone(), norm == "l2"
        )
        torch.testing.assert_close(torch.cat(seen[2:-1]), torch.stack(asked))
        count += len(asked)
    assert count > (160 if norm == "l0" else 350)


def test_starts_are_salt_and_pepper_of_growing_shares() -> None:
    x = torch.full((2, 1000), 0.5)

    class Search:
        def __init__(self) -> None:
            self.x, self.threat, self.ids = x, L0(INF), torch.arange(2)
            self.seed = self.restart = 0

    for draw, share in ((0, 0.01), (49, 0.5), (99, 1.0), (149, 0.5)):
        noise = _salt_and_pepper(Search(), draw)[:, 0]  # type: ignore[arg-type]
        moved = (noise != x).float().mean(1)
        torch.testing.assert_close(moved, torch.full((2,), share), rtol=0, atol=4 * (share / 4000) ** 0.5)
        assert set(noise.unique().tolist()) - {0.5} == {0.0, 1.0}
        assert not torch.equal(noise[0], noise[1])


def test_the_budget_and_restarts() -> None:
    """Ten runs in L0 and one in L2; without a number a run ends by itself."""
    net, x = mlp(inputs=SIZE), images(3, (SIZE,))
    y = labels(net, x)
    for threat, runs in ((L0(INF), 10), (L2(INF), 1)):
        short = pointwise(net, x, y, threat, queries=20, variant="published")
        assert short.forwards <= 3 * (20 * runs + 2)
        long = pointwise(net, x, y, threat, variant="published")
        assert (long.distance <= short.distance).all()
    one = pointwise(net, x, y, L0(INF), restarts=1, variant="published")
    assert (pointwise(net, x, y, L0(INF), variant="published").distance <= one.distance).all()
