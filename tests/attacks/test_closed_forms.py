"""Linear models, on which the nearest success and the most that a ball holds are known; and flat ones."""

from functools import partial
from itertools import cycle, product
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import ATTACKS, Status, WrongBy, apgd, bim, fgsm, last_iterate, mim, pgd
from fastadv.engine import freeze
from fastadv.threat import L1, THREATS, Linf

from .contract.cases import CASES, two_classes
from .contract.conftest import ONE_NORM
from .halfspaces import nearest, problem
from .nets import RADIUS, Case, images, labels

# of attacks by gradients for the minimum norm: the largest distance over the exact one, and what leads there
EXACT: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {
    ("cw", "l2"): (1.02, {"steps": 60, "searches": 4}),
    ("cw", "linf"): (1.05, {"steps": 60, "searches": 5}),
    ("ddn", "l2"): (1.005, {"steps": 150}),
    ("deepfool", "linf"): (1.02, {"steps": 50}),
    ("deepfool", "l2"): (1.001, {"steps": 50}),
    ("ead", "l1"): (1.05, {"steps": 60, "searches": 4}),
    ("fab", "linf"): (1.001, {"steps": 10, "restarts": 1}),
    ("fab", "l2"): (1.001, {"steps": 10, "restarts": 1}),
    ("fab", "l1"): (1.001, {"steps": 10, "restarts": 1}),
    ("fmn", "linf"): (1.001, {"steps": 100}),
    ("fmn", "l2"): (1.001, {"steps": 100}),
    ("fmn", "l1"): (1.02, {"steps": 200}),
    ("fmn", "l0"): (1.1, {"steps": 100}),
    ("lbfgs", "l2"): (1.03, {"steps": 20, "searches": 10}),
    ("pdgd", "l2"): (1.002, {"steps": 100}),
    ("pdpgd", "linf"): (1.02, {"steps": 100}),
    ("pdpgd", "l2"): (1.01, {"steps": 100}),
    ("pdpgd", "l1"): (1.05, {"steps": 100}),
    ("pdpgd", "l0"): (1.1, {"steps": 100}),
    ("sigma_zero", "l0"): (1.25, {"steps": 150}),
    ("superdeepfool", "l2"): (1.001, {"steps": 50}),
}
# attacks whose step is one gradient, and no more
PLAIN = [pair for pair in EXACT if pair[0] in ("ddn", "fmn", "pdgd", "pdpgd", "sigma_zero")]
# of each attack two or three ways at once, and of each third also
HOWS, ALSO = ("3072 in bfloat16", "a target in a mask", "bfloat16, a lead in a mask"), "a lead without edges"
# of all others, arguments that come within the tolerance of their card on a model of 196 values
NEAR: dict[str, dict[str, Any]] = {
    "apgd": {"steps": 40},
    "boundary": {"queries": 1500},
    "hopskipjump": {"queries": 1500},
    "minimum_radius": {"attack": partial(bim, steps=20, loss="margin"), "searches": 8},
    "nes": {"queries": 4040},
    "sparse_rs": {"queries": 600},
    "spsa": {"queries": 4040},
    "square": {"queries": 600},
}


def others(case: Case) -> list[str]:
    one = case.name in ONE_NORM and "published" not in case.name
    return [norm for norm in case.entry.norms[: 1 if one else None] if (case.name, norm) not in EXACT]


OTHERS = [case for case in CASES if case.name not in ("bim", "fgsm", "mim", "pgd") and others(case)]


def attacked(name: str, norm: str, *args: Any, box: Any = (0.0, 1.0), **options: Any) -> Any:
    entry, threat = ATTACKS[name], THREATS[norm](inf, box)
    return entry.run(*args, threat, **{**entry.quick, **EXACT[name, norm][1], **options})


def where(how: str, y: Tensor, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the attack is given, and what the closed form is."""
    given, known = dict[str, Any](), dict[str, Any]()
    if "target" in how:
        given["targets"] = known["targets"] = (y + 1) % 3
    if "lead" in how:
        given["criterion"], known["lead"] = WrongBy(2.0), 2.0
    if "mask" in how:
        known["mask"] = torch.rand(size, generator=torch.Generator().manual_seed(3)) < 0.5
        given["mask"] = known["mask"][None]
    if "without edges" in how:
        given["box"], known["box"] = (-inf, inf), (-50.0, 50.0)
    return given, known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm", "how"),
    [
        *((*pair, how) for pair, how in zip(EXACT, cycle(HOWS))),
        *((*pair, ALSO) for pair in [*EXACT][1::3]),
        ("fmn", "l2", "3072"),  # which tells by how much its ball grows
    ],
)
def test_exact_distance(name: str, norm: str, how: str) -> None:
    size, classes = (3072, 2) if "3072" in how else (784, 3)
    model, x, y = problem(size, classes, size=9 if "target" in how else 4)
    given = x
    if "bfloat16" in how:  # which are searched in float32
        given = x.bfloat16()
        y = labels(model, x := given.float())
    (options, known), ratio = where(how, y, size), EXACT[name, norm][0]
    distance, point = nearest(model, x, y, norm, **known)
    out = attacked(name, norm, model, given, y, **options)
    assert (out.status == Status.BROKEN).all()
    assert out.x_adv.isfinite().all()
    torch.testing.assert_close(out.distance, THREATS[norm](inf).distance(out.x_adv, x).float())
    if "without edges" in how:
        if norm == "l0":  # where one coordinate is enough, if it is sent far away
            return
        ratio = max(ratio, 1.2 if norm == "l1" else 1.05)
    else:
        assert (out.distance >= distance * (1 - 1e-5)).all()
    exact = torch.ones(len(x), dtype=torch.bool)
    if "target" in how:
        exact = model.double()(point).scatter(1, y[:, None], -inf).argmax(1) == options["targets"]
        assert exact.sum() >= 5
    assert (out.distance <= distance * ratio)[exact].all()


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_the_distance_of_a_linear_model(case: Case) -> None:
    """D = 196, saturated pixels among them: within the tolerance, and never nearer than the boundary.

    Two attacks move a part of the pixels.
    """
    x = images(4, (1, 14, 14))
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))
    model, _ = two_classes(x, 3.0)
    y, options = torch.zeros(4, dtype=torch.long), {**case.oracle, **NEAR.get(case.name, {})}
    mask = torch.ones(1, 14, 14, dtype=torch.bool)
    if case.name in ("boundary", "hopskipjump"):
        mask.flatten()[3::4] = False
    for norm in others(case):
        distance, _ = nearest(model, x, y, norm, mask=mask.flatten())
        if case.entry.minimal:
            out = case(model, x, y, THREATS[norm](inf), mask=mask, **options)
            assert out.success.all(), norm
            assert (out.distance >= distance * (1 - 1e-4)).all(), norm
            assert (out.distance <= distance * case.entry.tolerance + (norm == "l0")).all(), norm
            continue
        enough, less = distance * case.entry.tolerance, distance * 0.97
        if norm == "l0":
            enough, less = enough.ceil(), less - 1
        threat = THREATS[norm](torch.cat([enough, less]))
        out = case(model, torch.cat([x, x]), torch.cat([y, y]), threat, **options)
        assert out.success.tolist() == [True] * 4 + [False] * 4, norm


# of the most that ball and box allow, what is gained where it is not all: L2 steps end beyond the box
SHARES = {
    ("fgsm", "l2"): 0.85, ("mim", "l2"): 0.85, ("pgd", "l2"): 0.98, ("pgd", "l1"): 0.99, ("apgd", "l1"): 0.99,
}  # fmt: skip
LEADS = (0.0, 150.0)
SEARCHES = [
    (fgsm, 1, "cw"),
    (bim, 10, "margin"),
    (mim, 10, "margin"),
    *product((pgd, apgd), [40], ("dlr", "ce")),
]


def shares(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, lead: float) -> Tensor:
    """[B] of the way from the margin at x to the lead, the share that is gone."""
    clean, found = ((z[:, 0] - z[:, 1]).where(y == 1, z[:, 1] - z[:, 0]) for z in (model(x), model(x_adv)))
    return ((found - clean) / (lead - clean)).detach()


@pytest.mark.slow
@pytest.mark.parametrize(("ascent", "steps", "loss"), SEARCHES)
def test_all_that_a_ball_holds_is_gained(ascent: Any, steps: int, loss: str) -> None:
    """D = 3,072, half of the pixels saturated, at the distance of the boundary and at one far beyond it."""
    model, x, y = problem(3072, 2, size=3)
    options = {"steps": steps, "stop_early": False} if ascent is not fgsm else {}
    for place, norm in enumerate(ATTACKS[ascent.__name__].norms, SEARCHES.index((ascent, steps, loss))):
        # beyond the boundary cw is 0, and cross-entropy with a target nearly so
        for lead in LEADS if loss in ("margin", "dlr") else LEADS[:1]:
            threat, targets = (
                THREATS[norm](nearest(model, x, y, norm, lead=lead)[0]),
                (None, 1 - y)[place % 2],
            )
            out = ascent(model, x, y, threat, loss=loss, targets=targets, **options)
            assert threat.contains(out.x_adv, x).all(), norm
            share = shares(model, out.x_adv, x, y, lead)
            assert (share >= SHARES.get((ascent.__name__, norm), 0.9999)).all(), norm
            assert (share <= 1 + 1e-4).all() or norm == "l0"  # whose last coordinate may lead beyond


def test_the_last_point_of_l1_training_is_near_the_optimum() -> None:
    model, x, y = problem(3072, 2, size=3)
    for lead in LEADS:
        threat = L1(nearest(model, x, y, "l1", lead=lead)[0])
        size, start = threat.default_step_size(7, 2.5), threat.random_start(x)
        z = last_iterate(freeze(model), x, y, threat, steps=7, step_size=size, start=start)
        assert (shares(model, z, x, y, lead) >= 0.95).all()


@pytest.mark.parametrize(("name", "norm"), PLAIN)
def test_each_step_costs_one_gradient(name: str, norm: str) -> None:
    """And one more pass, for the last point."""
    model, x, y = problem(784, 3, size=4)
    seven, nine = (attacked(name, norm, model, x, y, steps=steps) for steps in (7, 9))
    assert nine.backwards - seven.backwards == nine.forwards - seven.forwards == 2 * 4
    assert seven.backwards == 7 * 4


@pytest.mark.slow
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


LONG = {"steps": 60, "searches": 3}
FLAT = [
    (name, entry.norms[place % len(entry.norms)])
    for place, (name, entry) in enumerate(ATTACKS.items())
    if entry.knowledge == "gradient" and name not in ("autoattack", "minimum_radius")
]


@pytest.mark.slow
def test_a_flat_model_is_held() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images(3, (64,), dtype=torch.float32)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    for name, norm in FLAT:
        case = Case(name, ATTACKS[name])
        options = {key: count for key, count in LONG.items() if case.takes(key)}
        threat = THREATS[norm](inf if case.entry.minimal else 3 * RADIUS[norm])
        out = case.entry.run(model, x, labels(model, x), threat, **options)
        assert (out.status == Status.HELD).all(), name
        assert out.zero_gradient.all(), name
        assert out.x_adv.isfinite().all(), name


def test_gradients_beyond_the_range_of_float16_are_finite() -> None:
    """Elements of 1e6 have room in float32, and those of 1e-9 lead somewhere."""
    for size in (1e6, 1e-9):
        model = nn.Linear(784, 2)
        with torch.no_grad():
            model.weight.copy_(torch.stack([torch.zeros(784), torch.full((784,), size)]))
            model.bias.copy_(torch.tensor([size * 784 * 0.5 + size * 10, 0.0]))
        x = torch.full((3, 784), 0.5, dtype=torch.float16)
        out = pgd(model, x, torch.zeros(3, dtype=torch.long), Linf(0.1), steps=10)
        assert (out.status == Status.BROKEN).all()
        assert not out.zero_gradient.any()
