"""Gradient attacks for the minimum norm: exact distances on linear models, whatever they are asked for."""

from math import inf
from typing import Any

import pytest
import torch

from fastadv.attacks import ATTACKS, Status, WrongBy
from fastadv.threat import THREATS

from .halfspaces import nearest, problem

pytestmark = pytest.mark.slow
# the attack, its norm, the largest distance over the exact one, and the arguments that lead there
EXACT: list[tuple[str, str, float, dict[str, Any]]] = [
    ("cw", "l2", 1.02, {"steps": 60, "searches": 4}),
    ("cw", "linf", 1.05, {"steps": 60, "searches": 5}),
    ("ddn", "l2", 1.005, {"steps": 150}),
    ("deepfool", "linf", 1.02, {"steps": 50}),
    ("deepfool", "l2", 1.001, {"steps": 50}),
    ("ead", "l1", 1.05, {"steps": 60, "searches": 4}),
    ("fab", "linf", 1.001, {"steps": 10, "restarts": 1}),
    ("fab", "l2", 1.001, {"steps": 10, "restarts": 1}),
    ("fab", "l1", 1.001, {"steps": 10, "restarts": 1}),
    ("fmn", "linf", 1.001, {"steps": 100}),
    ("fmn", "l2", 1.001, {"steps": 100}),
    ("fmn", "l1", 1.02, {"steps": 200}),
    ("fmn", "l0", 1.1, {"steps": 100}),
    ("lbfgs", "l2", 1.03, {"steps": 20, "searches": 10}),
    ("pdgd", "l2", 1.002, {"steps": 100}),
    ("pdpgd", "linf", 1.02, {"steps": 100}),
    ("pdpgd", "l2", 1.01, {"steps": 100}),
    ("pdpgd", "l1", 1.05, {"steps": 100}),
    ("pdpgd", "l0", 1.1, {"steps": 100}),
    ("sigma_zero", "l0", 1.25, {"steps": 150}),
    ("superdeepfool", "l2", 1.001, {"steps": 50}),
]
OPTIONS = {(name, norm): options for name, norm, _, options in EXACT}
PAIRS = list(OPTIONS)
# of which a step is one gradient, and that is all
PLAIN = [(name, norm) for name, norm in PAIRS if name in ("ddn", "fmn", "pdgd", "pdpgd", "sigma_zero")]


def attacked(name: str, norm: str, *args: Any, box: Any = (0.0, 1.0), **options: Any) -> Any:
    entry, threat = ATTACKS[name], THREATS[norm](inf, box)
    return entry.run(*args, threat, **{**entry.quick, **OPTIONS[name, norm], **options})


@pytest.mark.parametrize(("inputs", "classes"), [(784, 10), (3072, 2)])
@pytest.mark.parametrize(("name", "norm", "ratio", "options"), EXACT)
def test_exact_distance(name: str, norm: str, ratio: float, options: Any, inputs: int, classes: int) -> None:
    model, x, y = problem(inputs, classes, size=4)
    distance, _ = nearest(model, x, y, norm)
    out = attacked(name, norm, model, x, y)
    assert (out.status == Status.BROKEN).all()
    assert (model(out.x_adv).argmax(1) != y).all()
    torch.testing.assert_close(out.distance, THREATS[norm](inf).distance(out.x_adv, x).float())
    assert (out.distance >= distance * (1 - 1e-5)).all()
    assert (out.distance <= distance * ratio).all()


@pytest.mark.parametrize(("name", "norm"), {name: (name, norm) for name, norm in PAIRS}.values())
def test_a_thousand_classes(name: str, norm: str) -> None:
    model, x, y = problem(192, 1000, size=2)
    distance, _ = nearest(model, x, y, norm)
    out = attacked(name, norm, model, x, y)
    assert (out.distance <= distance * 1.25).all()


@pytest.mark.parametrize(("name", "norm", "ratio", "options"), EXACT)
def test_exact_distance_to_a_target(name: str, norm: str, ratio: float, options: Any) -> None:
    model, x, y = problem(784, 3, size=9)
    targets = (y + 1) % 3
    distance, point = nearest(model, x, y, norm, targets)
    exact = model.double()(point).scatter(1, y[:, None], -inf).argmax(1) == targets
    model.float()
    assert exact.sum() >= 5
    out = attacked(name, norm, model, x, y, targets=targets)
    assert (model(out.x_adv).argmax(1) == targets).all()
    assert (out.distance >= distance * (1 - 1e-5)).all()
    assert (out.distance <= distance * ratio)[exact].all()


@pytest.mark.parametrize(("name", "norm", "ratio", "options"), EXACT)
def test_a_lead_in_a_mask(name: str, norm: str, ratio: float, options: Any) -> None:
    """The distance is that of a model of the other coordinates alone, to the points of such a margin."""
    model, x, y = problem(784, 3, size=4)
    mask = torch.rand(784, generator=torch.Generator().manual_seed(3)) < 0.5
    distance, _ = nearest(model, x, y, norm, lead=2.0, mask=mask)
    out = attacked(name, norm, model, x, y, mask=mask[None], criterion=WrongBy(2.0))
    assert out.success.all()
    assert torch.equal(out.x_adv[:, ~mask], x[:, ~mask])
    assert (out.distance >= distance * (1 - 1e-5)).all()
    assert (out.distance <= distance * ratio).all()


@pytest.mark.parametrize(("name", "norm", "ratio", "options"), EXACT)
def test_a_box_without_edges(name: str, norm: str, ratio: float, options: Any) -> None:
    model, x, y = problem(784, 3, size=4)
    out = attacked(name, norm, model, x, y, box=(-inf, inf))
    assert out.success.all()
    assert out.x_adv.isfinite().all()
    if norm != "l0":  # where one coordinate is enough, if it is sent far away
        distance, _ = nearest(model, x, y, norm, box=(-50.0, 50.0))
        assert (out.distance <= distance * max(ratio, 1.2 if norm == "l1" else 1.05)).all()


@pytest.mark.parametrize(("name", "norm"), PLAIN)
def test_each_step_costs_one_gradient(name: str, norm: str) -> None:
    """And one more pass, for the last point."""
    model, x, y = problem(784, 3, size=4)
    seven, nine = (attacked(name, norm, model, x, y, steps=steps) for steps in (7, 9))
    assert nine.backwards - seven.backwards == 2 * 4
    assert nine.forwards - seven.forwards == 2 * 4
    assert seven.backwards == 7 * 4


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_far_from_the_box_the_first_step_of_fmn_leads_to_the_boundary(norm: str) -> None:
    """And by gamma beyond it; in L2 the steps of the paper do, too."""
    model, x, _ = problem(784, 2, size=4)
    model.double()
    x = 0.4 + 0.2 * x.double()
    y = model(x).argmax(1)
    exact, _ = nearest(model, x, y, norm)
    out = attacked("fmn", norm, model, x, y, steps=1, gamma=0.01)
    torch.testing.assert_close(out.distance.double(), exact * 1.01, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("name", "norm"), [("cw", "l2"), ("ead", "l1"), ("lbfgs", "l2")])
def test_samples_leave_when_another_search_would_gain_nothing(name: str, norm: str) -> None:
    model, x, y = problem(784, 2, size=4)
    out = attacked(name, norm, model, x, y, steps=20, searches=80)
    assert out.backwards < 4 * 20 * 30
