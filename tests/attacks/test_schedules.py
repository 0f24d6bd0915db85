"""Schedules by hand: a script says what the model answers, and plain loops where each step must then lead."""

import math
import sys
from itertools import cycle
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv import ops
from fastadv.attacks import ATTACKS, apgd, fmn, sigma_zero
from fastadv.threat import L1, L2, THREATS

from .contract.cases import two_classes
from .nets import images, labels, mlp
from .watched import scripted, watched

pytestmark = pytest.mark.slow
Y = torch.tensor([0])
SIZES = {"linf": torch.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}
DUAL = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}


def turning(size: int) -> Any:
    """Gradients [size] that are another each time, none of whose elements is zero."""

    def gradient(number: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(number), dtype=torch.float64)

    return gradient


def cosine(step: int, steps: int, last: float) -> float:
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * step / steps))


def same(points: list[Tensor], expected: list[Tensor]) -> None:
    assert len(points) >= len(expected)
    for number, (point, wanted) in enumerate(zip(points, expected, strict=False)):
        torch.testing.assert_close(
            point, wanted, rtol=0, atol=1e-6, msg=lambda text, n=number: f"{n}: {text}"
        )


def sparse_step(here, gradient, share, size, x, radius):
    """[D] where a step in that share of the coordinates leads, their number rounded up as by the authors."""
    number = max(math.ceil(share * len(x) - 1e-6), 1)
    least = gradient.abs().sort(descending=True).values[number - 1]
    ahead = here + size * gradient.sign() * (gradient.abs() >= least) / number
    return ops.project_l1(ahead[None], x[None], radius, (0.0, 1.0))[0]


@pytest.mark.parametrize("rises", [[-5 + 0.01 * n for n in range(100)], [-5 - 0.01 * n for n in range(100)],
                                   [-5 + math.sin(n) for n in range(100)]],
                         ids=["rising", "falling", "both"])  # fmt: skip
def test_apgd_in_l1(rises: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Croce & Hein 2021, algorithm 1: first a fifth of the coordinates. After each 4 % of the steps the share
    is that of the coordinates moved so far, over 1.5; steps are 1.5 times shorter, to a tenth of the radius
    at least, or as at first, from the strongest point, where that has become sparser by 5 %.
    """
    steps, radius, count = 100, 3.0, 80
    model, points = scripted(rises, turning(count))
    x = torch.linspace(0.3, 0.7, count, dtype=torch.float64)
    monkeypatch.setattr(sys.modules["fastadv.attacks.apgd"], "LARGER", {})
    apgd(model, x[None], Y, L1(radius), steps=steps, loss="margin")
    size, share, before, top, begun = radius, 0.2, count, 0, 0
    for number in range(steps - 1):
        top = number if rises[number] > rises[top] else top
        place = number
        if number and number % 4 == 0:
            moved = int((points[top] != x).sum())
            sparser = moved < 0.95 * before
            begun += sparser
            place, size = (top, radius) if sparser else (number, max(size / 1.5, radius / 10))
            share, before = moved / count / 1.5, moved
        same(
            points[number + 1 :], [sparse_step(points[place], turning(count)(place), share, size, x, radius)]
        )
    assert begun >= 1
    assert size < radius


@pytest.mark.parametrize("best", [4, 29])
def test_a_stage_of_apgd_in_l1_begins_at_the_strongest_point(best: int) -> None:
    """It is brought into the smaller ball; the first step is as long as that, its share is of this start."""
    margins = [-5.0 - 0.01 * n for n in range(100)]
    margins[best], margins[30 + best] = -4.0, -3.0
    model, points = scripted(margins, turning(24))
    x = torch.linspace(0.3, 0.7, 24, dtype=torch.float64)
    apgd(model, x[None], Y, L1(0.5), steps=100, loss="margin")
    for first, factor in ((30, 2.0), (60, 1.0)):
        radius = 0.5 * factor
        start = ops.project_l1(points[first - 30 + best][None], x[None], radius, (0.0, 1.0))[0]
        same(points[first:], [start])
        share = int((points[first] != x).sum()) / 24 / 1.5
        same(points[first + 1 :], [sparse_step(points[first], turning(24)(first), share, radius, x, radius)])


class Flat:
    """APGD in a ball of L2 around gray, whose margins follow a script while gradients turn."""

    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    ball = L2(1e-3)

    def __init__(self, margins: list[float], steps: int = 100, others: Any = None, **options: Any) -> None:
        model, self.points = scripted(margins, turning(3), others)
        apgd(model, self.x, Y, self.ball, steps=steps, **{"loss": "margin", **options})

    def goes(self, number: int, start: int, radii: float) -> bool:
        """Whether the step after gradient `number` is from point `start`, of so many radii, with momentum."""
        here, before = self.points[start][None], self.points[max(number - 1, 0)][None]
        ahead = self.ball.step(here, turning(3)(start)[None], self.x, radii * 1e-3)
        mixed = here + 0.75 * (ahead - here) + 0.25 * (here - before) if number else ahead
        return torch.allclose(
            self.ball.project(mixed, self.x)[0], self.points[number + 1], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("steps", [40, 137])
def test_checkpoints_of_apgd(steps: int) -> None:
    """Croce & Hein 2020, section 3.3: p_1 = 0.22, then each share is 0.03 less, and 0.06 at least."""
    run = Flat(falling(-5, steps), steps)
    expected, done, share = [], 0, int(0.22 * steps)
    while done + share < steps:
        done += share
        expected += [done] if done < steps - 1 else []
        share = max(share - int(0.03 * steps), int(0.06 * steps))
    back, radii = [], 2.0
    assert run.goes(0, 0, radii)
    for number in range(1, steps - 1):
        # the first step after a checkpoint starts at the strongest point, which is the first, half as long
        if run.goes(number, 0, radii / 2):
            back.append(number)
            radii /= 2
    assert back == expected


def rising(first: float, count: int) -> list[float]:
    return [first + 0.01 * n for n in range(count)]


def falling(first: float, count: int) -> list[float]:
    return [first - 0.01 * n for n in range(count)]


def begins(count: int) -> list[float]:
    """Margins of which so many of the first 22 steps rise; the others fall."""
    return [-5 + 0.01 * min(step, 2 * count - step) for step in range(23)] + [-8.0]


AIMED = {"others": rising(-4, 100), "loss": "margin-targeted", "classes": 1}
# the margins, options, and what each step must be: its number, where it starts, how many radii it has
CHECKPOINTS: dict[str, tuple[list[float], dict[str, Any], list[tuple[int, int, float]]]] = {
    # of the first 22 of 100 steps more than rho * 22 must raise the loss: from the strongest point on steps
    # are half as long, or as long as before
    "16 of 22": (begins(16), {"rho": 0.75}, [(22, 16, 1.0)]),
    "17 of 22": (begins(17), {"rho": 0.75}, [(22, 22, 2.0)]),
    "11 of 22 and a half": (begins(11), {"rho": 0.5}, [(22, 11, 1.0)]),
    "12 of 22 and a half": (begins(12), {"rho": 0.5}, [(22, 22, 2.0)]),
    "22 of 22 and all": (begins(22), {"rho": 1.0}, [(22, 22, 1.0)]),
    # at the second checkpoint, after 19 more steps, the loss rises and stays below the highest of before
    "nothing new": (rising(-5, 23) + rising(-8, 19) + [-9.0], {}, [(41, 22, 1.0)]),
    # the first 22 steps fall and are halved; the next 19 rise, but stay below the start
    "not twice in a row": (falling(-5, 23) + rising(-8, 60), {}, [(22, 0, 1.0), (41, 41, 1.0)]),
    # 21 of the first 22 steps rise, all of them below the start
    "a rise is against the step before": ([-5.0, *rising(-8, 60)], {}, [(22, 22, 2.0)]),
    # all of 22 steps raise the loss, one of the next 19 does
    "rises count anew": ([*rising(-5, 23), -3.0, *falling(-3.5, 80)], {}, [(22, 22, 2.0), (41, 23, 1.0)]),
    # the class aimed at falls all the time, while another rises
    "a round goes by the loss of its class": (falling(-5, 100), AIMED, [(22, 0, 1.0)]),
}


@pytest.mark.parametrize("case", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_what_a_checkpoint_of_apgd_makes_of_rises(case: Any) -> None:
    margins, options, steps = case
    run = Flat(margins, **options)
    assert all(run.goes(*step) for step in steps)


def test_over_all_rounds_the_loss_of_any_class_decides() -> None:
    """The second round aims at class 2 and meets, on the way, where class 1 comes nearer than ever."""

    def curved(x: Tensor) -> Tensor:
        across = x[:, 0] - 0.5
        first = torch.where(across > -0.08, -1.5 + 5 * across, -1.9 + 70 * (-0.08 - across))
        return torch.stack([0 * across, first, -2.5 - 5 * across], 1)

    x = torch.full((1, 8), 0.5, dtype=torch.float64)
    out = apgd(
        curved, x, Y, THREATS["linf"](0.1), steps=6, loss="margin-targeted", classes=2, stop_early=False
    )
    # class 1 comes to -1 in the first round, to -0.5 in the second, where class 2 is at -2
    assert float(out.loss[0]) == pytest.approx(-0.5)
    assert float(out.x_adv[0, 0]) == pytest.approx(0.4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_fmn_stays_as_near_as_the_nearest_success(norm: str) -> None:
    """And a little nearer, where the last point is one; elsewhere the ball grows by gamma, and no more."""
    margins = [-0.01, *(0.02 * math.sin(0.9 * n + 1.3) for n in range(40))]
    x, threat = torch.linspace(0.35, 0.65, 20, dtype=torch.float64), THREATS[norm](torch.inf)
    model, points = scripted(margins, turning(20))
    fmn(model, x[None], Y, threat, steps=40)
    away = [float(threat.distance(point[None], x[None])) for point in points]
    nearest = inf
    for number in range(1, 39):
        if margins[number] > 0:
            nearest = min(nearest, away[number])
            assert away[number + 1] <= nearest * (1 + 1e-6)
        grown = max(away[1 : number + 1]) * 1.05
        assert away[number + 1] <= max(grown, grown // 1 + 1 if norm == "l0" else 0) * (1 + 1e-6)


def test_fmn_looks_for_its_first_success_as_in_the_paper_for_a_while() -> None:
    """Under L2 and L1: for the first 5 % of the steps; then it goes to the boundary of the linear model."""
    steps, count = 60, 4
    x = torch.full((count,), 0.5, dtype=torch.float64)
    for norm in ("l2", "l1"):
        model, points = scripted([-0.02], turning(count))
        fmn(model, x[None], Y, THREATS[norm](torch.inf), steps=steps)
        for number in (0, 1, 2, 3, 4, 5):
            here, gradient = points[number], turning(count)(number)
            share = 0.05 * cosine(number, steps, 0.02)
            away = float(torch.linalg.vector_norm(here - x, SIZES[norm]))
            size = float(torch.linalg.vector_norm(gradient, DUAL[norm]))
            lack = max(0.02 * (1 + share), away * share * size)
            ahead = here + cosine(number, steps, 0.01) * gradient / gradient.norm()
            if number >= 3:
                lacks = torch.tensor([lack]).double()
                ahead = here + ops.to_hyperplane(here[None], gradient[None], lacks, norm, (0.0, 1.0))[0]
            expected = THREATS[norm](away + lack / size).project(ahead[None], x[None])[0]
            torch.testing.assert_close(points[number + 1], expected, rtol=0, atol=1e-6)


def test_sigma_zero_puts_back_what_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """One coordinate for each 15 steps, from the least change on."""
    module, net, x = sys.modules["fastadv.attacks.sigma_zero"], mlp(4), images(12)
    y, inside, steps, fewer = labels(net, x), THREATS["l0"](torch.inf), 60, 0
    sparse = sigma_zero(net, x, y, inside, steps=steps).x_adv
    monkeypatch.setattr(module, "PUT_BACK", steps + 1)
    before = sigma_zero(net, x, y, inside, steps=steps)
    assert before.success.all()
    for row, (point, clean) in enumerate(zip(before.x_adv.flatten(1), x.flatten(1), strict=True)):
        for place in [place for place in (point - clean).abs().argsort() if point[place] != clean[place]][:4]:
            tried = point.clone()
            tried[place] = clean[place]
            lasts = int(net(tried[None]).argmax(1)) != int(y[row])
            point, fewer = (tried, fewer + 1) if lasts else (point, fewer)
        assert torch.equal(sparse[row].flatten(), point)
    assert fewer


EACH = [*zip(ATTACKS["fmn"].norms, cycle(("fastadv", "published")))]


def asked(norm: str, variant: Any, model: Any, *args: Tensor, **more: Any) -> Any:
    """The points at which it asks for gradients, and its result."""
    function, seen = watched(model, gradients=True)
    return seen, fmn(function, *args, THREATS[norm](inf), steps=10, variant=variant, **more)


def test_it_begins_near_the_boundary() -> None:
    """On a linear model: a thousandth of the way closer it would be no success. The second point is none."""
    x = images(3)
    model, weight = two_classes(x, 0.5)
    y, start = torch.zeros(3, dtype=torch.long), (weight > 0).double().expand(3, 16).view_as(x).clone()
    start[1] = 1 - start[1]
    for norm, variant in EACH:
        seen, out = asked(norm, variant, model, x, y, starts=start)
        plain, without = asked(norm, variant, model, x, y)
        torch.testing.assert_close(seen[0][1], x[1], rtol=0, atol=1e-5)
        torch.testing.assert_close(out.x_adv[1], without.x_adv[1])
        torch.testing.assert_close(plain[0], x, rtol=0, atol=1e-5)
        lead = (seen[0].flatten(1) @ weight - model[1].bias[0])[[0, 2]]
        share = ((start - x).flatten(1) @ weight)[[0, 2]]
        # a tenth halving in L0 leaves a coordinate of sixteen
        least = weight.abs().max() if norm == "l0" else 3e-3 * share
        assert (lead > -1e-4).all()
        assert (lead < least).all()
        assert out.success[[0, 2]].all()


def test_restarts_begin_at_random_points_near_the_best() -> None:
    """By seed and sample number, within half the distance of the nearest success."""
    model, x = mlp(), images(4)
    y, ids = labels(model, x), torch.arange(4) + 7
    for norm, variant in EACH:
        seen, out = asked(norm, variant, model, x, y, restarts=2, seed=3, ids=ids)
        first, alone = asked(norm, variant, model, x, y, ids=ids)
        second, threat = seen[len(first)], THREATS[norm](inf)
        near = {"linf": 0.3, "l2": 1.0, "l1": 5.0, "l0": 10.0}[norm]
        half = torch.where(alone.success, alone.distance, near) / 2
        threat = threat.with_radius(half.ceil() if norm == "l0" else half)
        torch.testing.assert_close(second, threat.random_start(x, seed=3, ids=ids, draw=1), rtol=0, atol=1e-5)
        assert (out.distance <= alone.distance).all()
        other, _ = asked(norm, variant, model, x, y, restarts=2, seed=4, ids=ids)
        assert not torch.equal(other[len(first)], second)
