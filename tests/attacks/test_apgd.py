"""Auto-PGD: starts, rounds, larger balls, runs side by side. Its schedule is in test_schedules.py."""

import sys
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import AttackResult, Status, apgd, core, fab
from fastadv.attacks.apgd import nearest_classes
from fastadv.attacks.methods import full_batches
from fastadv.threat import L1, L2, THREATS, Linf
from tests.refusals import refuses

from .halfspaces import nearest, problem
from .nets import images, labeled, labels, linear, mlp, threat
from .watched import firm, watched


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "classes", "scale"),
    [
        ("ce-targeted", 10, 1.6),
        ("dlr-targeted", 100, 1.02),
        ("margin-targeted", 2, 1.02),
    ],
)
def test_targeted_losses_find_the_nearest_class(loss: str, classes: int, scale: float) -> None:
    """K - 1 rounds at most; the nearest boundary is among those of the nine best classes."""
    model, x, y = problem(784, classes)
    nine = model(x).detach().scatter(1, y[:, None], -torch.inf).topk(min(9, classes - 1), 1).indices
    away = torch.stack([nearest(model, x, y, "linf", column)[0] for column in nine.unbind(1)]).amin(0)
    assert apgd(model, x, y, Linf(away * scale), steps=20, loss=loss).success.all()
    held = apgd(model, x, y, Linf(away * 0.98), steps=5, loss=loss)
    assert not held.success.any()
    assert held.backwards == 6 * 5 * min(9, classes - 1)


def test_an_l1_start_is_the_projection_of_noise_that_no_box_has_cut() -> None:
    """The largest draws alone keep a part of the radius; clipped to the box first, most would be the same."""
    model, seen = firm(torch.ones(784), gradients=True)
    x = (3 * images(4, (784,), dtype=torch.float32) - 1).clamp(0, 1)
    noise = rng.normal(784, rng.derive(0, "apgd", 0), torch.arange(4))
    for factor, steps, larger in ((1.0, 3, None), (3.0, 10, None), (1.0, 10, ())):
        seen.clear()  # a tenth of few steps is none, and larger balls can be left out
        apgd(model, x, torch.zeros(4).long(), L1(10.0), steps=steps, larger=larger)
        torch.testing.assert_close(seen[0], L1(10.0 * factor).project(x + noise, x), rtol=0, atol=1e-6)
        away = (seen[0] - x).abs()
        assert ((away > 1e-6).sum(1) < 50 * factor).all()
        assert (away.amax(1) > 0.5).all()


def test_an_ascent_may_start_anywhere() -> None:
    """The points are moved into the ball first; restarts begin at random ones."""
    model, x, y = labeled(mlp(3), images(5))
    starts = (x + 0.2).clamp(0, 1)
    for inside in (Linf(0.01), L2(0.05)):
        out = apgd(model, x, y, inside, steps=0, starts=starts)
        held = out.status == Status.HELD
        assert held.any()
        torch.testing.assert_close(out.x_adv[held], inside.project(starts, x)[held])
    once, thrice = (
        apgd(model, x, y, inside, steps=0, starts=starts, restarts=restarts, stop_early=False)
        for restarts in (1, 3)
    )
    assert not torch.equal(once.x_adv, thrice.x_adv)


DUAL = {"linf": 1, "l2": 2, "l1": inf}


def order_found(model: Any, x: Tensor, y: Tensor, norm: str, **common: Any) -> Tensor:
    orders = []

    def rule(search: core.Search) -> None:
        orders.append(nearest_classes(search))

    assert core.run(model, x, y, THREATS[norm](0.1), rule, **common).backwards == orders[0].numel()
    return orders[0]


@pytest.mark.parametrize(("norm", "classes"), [("linf", 12), ("l2", 12), ("l1", 12), ("l2", 150)])
def test_the_order_is_that_of_the_distances(norm: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than 100 classes, those with the largest logits take part. A mask holds pixels."""
    monkeypatch.setattr(sys.modules["fastadv.attacks.apgd"], "CHUNK", 2 * 100 * classes)
    net = linear(classes).double()
    x, weight = images(5), net[1].weight.detach()
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, 1:] = True
    logits, y = net(x).detach(), labels(net, x)
    order = order_found(net, x, y, norm, mask=mask)
    assert order.shape == (5, min(100, classes - 1))
    for row, label in enumerate(y.tolist()):
        others = logits[row].argsort(descending=True)[1:][:100]
        normals = (weight[others] - weight[label]) * mask.flatten()
        distance = (logits[row, label] - logits[row, others]) / torch.linalg.vector_norm(
            normals, DUAL[norm], dim=1
        )
        assert order[row].tolist() == others[distance.argsort()].tolist()


APART, TOGETHER = {"cpu": 1}, {"cpu": 10**6}


def both(monkeypatch: pytest.MonkeyPatch, attack: Any, *args: Any, **options: Any) -> list[AttackResult]:
    results = []
    for full in (APART, TOGETHER, {"cpu": 20}):
        monkeypatch.setattr(full_batches, "FULL", full)
        results.append(attack(*args, **options))
    return results


def assert_same(results: list[AttackResult]) -> None:
    first = results[0]
    for other in results[1:]:
        torch.testing.assert_close(other.x_adv, first.x_adv, rtol=0, atol=1e-8)
        torch.testing.assert_close(other.loss, first.loss, rtol=0, atol=1e-8)
        assert torch.equal(other.status, first.status)
        assert torch.equal(other.zero_gradient, first.zero_gradient)
        assert other.flags == first.flags


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threat", "stop_early"),
    [(Linf(0.08), True), (L2(0.25), False), (L1(0.6), True), (Linf(0.08), False)],
    ids=lambda value: getattr(value, "norm", value),
)
def test_targets_of_apgd(threat: Any, stop_early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = labeled(mlp(7), images(9))
    y[2] = (y[2] + 1) % 7
    threat = threat.with_radius(threat.radius * torch.linspace(0.2, 1.8, 9, dtype=torch.float64))
    results = both(
        monkeypatch, apgd, net, x, y, threat, loss="margin-targeted", steps=8, stop_early=stop_early,
        restarts=2, ids=torch.arange(9) * 3, starts=x.flip(0),
    )  # fmt: skip
    assert_same(results)
    assert {Status.HELD, Status.BROKEN, Status.ALREADY_WRONG} <= set(results[0].status.tolist())
    apart, together, _ = results
    if not stop_early:
        assert together.forwards == apart.forwards


@pytest.mark.slow
@pytest.mark.parametrize("threat", [Linf(torch.inf), L2(0.8), L1(torch.inf)], ids=lambda threat: threat.norm)
def test_classes_of_fab(threat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = labeled(mlp(6), images(8))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    results = both(monkeypatch, fab, net, x, y, threat, steps=5, targeted=True, restarts=2, mask=mask)
    assert_same(results)
    torch.testing.assert_close(results[1].distance, results[0].distance)
    assert (results[0].distance > 0).all()


def test_what_one_copy_met_is_known_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the random starts have logits that are not finite."""

    def model(x: Tensor) -> Tensor:
        first, second = x.flatten(1)[:, :2].unbind(1)
        return torch.stack([torch.where(first > 0.55, torch.nan, 0.0) + 9, second + 1, second], 1)

    x = torch.full((12, 1, 4, 4), 0.5, dtype=torch.float64)
    y = torch.zeros(12, dtype=torch.long)
    results = both(monkeypatch, apgd, model, x, y, Linf(0.1), loss="margin-targeted", steps=0)
    assert_same(results)
    assert set(results[0].status.tolist()) == {Status.FAILED, Status.HELD}


@pytest.mark.slow
def test_a_gradient_that_is_zero_for_one_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes 1 and 2 have no gradient, class 3 has: the sample had one."""

    def model(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        none = torch.zeros_like(flat[:, 0])
        return torch.stack([none + 3, none + 1, none + 2, flat.mean(1)], 1)

    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.long)
    targets = {"loss": "margin-targeted", "steps": 3}
    for out in both(monkeypatch, apgd, model, x, y, Linf(0.1), classes=3, **targets):
        assert not out.zero_gradient.any()
    for out in both(monkeypatch, apgd, model, x, y, Linf(0.1), classes=2, **targets):
        assert out.zero_gradient.all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_larger_balls_come_first_and_leave_no_point_outside(norm: str) -> None:
    """The model tells the points of the first steps, beyond the ball of the result."""
    net, x, y = labeled(mlp(dtype=torch.float32), images(12, dtype=torch.float32))
    inside, (model, seen) = threat(norm), watched(net)
    out = apgd(model, x, y, inside, steps=10, larger=(2.0, 1.5), stop_early=False)
    whole = (points for points in seen if len(points) == len(x))
    far = [round(float((inside.distance(points, x) / inside.radius).max()), 3) for points in whole]
    begun = far.index(2.0)
    between = far.index(1.5, begun)
    assert between > begun
    assert max(far[between:]) == 1.5
    assert far[-3:] == [1.0] * 3
    assert inside.contains(out.x_adv, x).all()
    plain = apgd(net, x, y, inside, steps=10, stop_early=False, larger=())
    assert torch.equal(plain.x_adv, apgd(net, x, y, inside, steps=10, stop_early=False).x_adv)
    for wrong in ((0.5,), (2.0, 2.0, 2.0, 2.0), ("2",)):
        refuses("larger", apgd, net, x, y, inside, larger=wrong)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_class_and_restart_has_a_start_of_its_own_at_the_surface(norm: str) -> None:
    """Number * restarts + restart: the classes of a round side by side, by the keys 0 and 2, 1 and 3.

    The surface is that of what a mask lets move.
    """
    net, x, ids = mlp(dtype=torch.float32), 0.3 + 0.4 * images(4, dtype=torch.float32), torch.arange(4) + 5
    (model, seen), y, mask = watched(net), labels(net, x), torch.arange(16).view(1, 4, 4) < 10
    options = {"steps": 0, "loss": "ce-targeted", "restarts": 2, "stop_early": False, "seed": 3}
    apgd(model, x, y, THREATS[norm](0.05), mask=mask, ids=ids, **options)
    draw = rng.normal if norm == "l2" else lambda *key: 2 * rng.uniform(*key) - 1
    for place, keys in ((1, (0, 2)), (2, (1, 3))):
        noise = [draw(16, rng.derive(3, "apgd", key), ids).view_as(x) * mask for key in keys]
        order = THREATS[norm].order
        starts = [x + 0.05 * n / n.flatten(1).norm(p=order, dim=1).view(-1, 1, 1, 1) for n in noise]
        torch.testing.assert_close(seen[place], torch.cat(starts))
