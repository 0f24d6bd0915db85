"""Gradient attacks for the minimum norm: exact distances on linear models, whatever they are asked for."""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import ATTACKS, Status, WrongBy
from fastadv.threat import THREATS

from .contract.cases import two_classes
from .halfspaces import nearest, problem
from .nets import images

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
# attacks whose step is one gradient, and no more
PLAIN = [(name, norm) for name, norm in PAIRS if name in ("ddn", "fmn", "pdgd", "pdpgd", "sigma_zero")]


def attacked(name: str, norm: str, *args: Any, box: Any = (0.0, 1.0), **options: Any) -> Any:
    entry, threat = ATTACKS[name], THREATS[norm](inf, box)
    return entry.run(*args, threat, **{**entry.quick, **OPTIONS[name, norm], **options})


def where(how: str, x: Tensor, y: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the attack is given, and what the closed form is."""
    if how == "a target":
        return {"targets": (y + 1) % 3}, {"targets": (y + 1) % 3}
    if how == "a lead in a mask":
        mask = torch.rand(784, generator=torch.Generator().manual_seed(3)) < 0.5
        return {"mask": mask[None], "criterion": WrongBy(2.0)}, {"mask": mask, "lead": 2.0}
    return ({"box": (-inf, inf)}, {"box": (-50.0, 50.0)}) if how == "no edges" else ({}, {})


HOWS = ["3072", "a target", "a lead in a mask", "no edges"]


@pytest.mark.parametrize(
    ("name", "norm", "ratio", "how"),
    [(*row[:3], HOWS[(place + 2 * turn) % 4]) for place, row in enumerate(EXACT) for turn in range(2)],
)
def test_exact_distance(name: str, norm: str, ratio: float, how: str) -> None:
    """Each attack in two of the ways, each way for many attacks."""
    model, x, y = problem(*((3072, 2) if how == "3072" else (784, 3)), size=9 if how == "a target" else 4)
    options, known = where(how, x, y)
    distance, point = nearest(model, x, y, norm, **known)
    out = attacked(name, norm, model, x, y, **options)
    assert (out.status == Status.BROKEN).all()
    assert out.x_adv.isfinite().all()
    torch.testing.assert_close(out.distance, THREATS[norm](inf).distance(out.x_adv, x).float())
    if how == "no edges":
        if norm == "l0":  # where one coordinate is enough, if it is sent far away
            return
        ratio = max(ratio, 1.2 if norm == "l1" else 1.05)
    else:
        assert (out.distance >= distance * (1 - 1e-5)).all()
    exact = torch.ones(len(x), dtype=torch.bool)
    if how == "a target":
        exact = model.double()(point).scatter(1, y[:, None], -inf).argmax(1) == options["targets"]
        assert exact.sum() >= 5
    assert (out.distance <= distance * ratio)[exact].all()


@pytest.mark.parametrize(("name", "norm"), PLAIN)
def test_each_step_costs_one_gradient(name: str, norm: str) -> None:
    """And one more pass, for the last point."""
    model, x, y = problem(784, 3, size=4)
    seven, nine = (attacked(name, norm, model, x, y, steps=steps) for steps in (7, 9))
    assert nine.backwards - seven.backwards == nine.forwards - seven.forwards == 2 * 4
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
    assert attacked(name, norm, model, x, y, steps=20, searches=80).backwards < 4 * 20 * 30


@pytest.mark.parametrize(
    ("name", "norm", "options"),
    [
        ("cw", "l2", {"step_size": 0.5}), ("cw", "linf", {"step_size": 0.5}),
        ("ead", "l1", {"step_size": 10, "constant": 1e3}),
    ],
)  # fmt: skip
def test_the_last_point_is_judged(name: str, norm: str, options: dict[str, float]) -> None:
    x = images(4, (1, 28, 28))
    model, _ = two_classes(x, 0.05)
    out = attacked(name, norm, model, x, torch.zeros(4, dtype=torch.long), steps=1, searches=1, **options)
    assert out.success.any()
    assert out.backwards == 4
