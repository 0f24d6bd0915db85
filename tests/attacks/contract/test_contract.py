"""What every attack promises besides what a single result shows, which is in test_rows.py."""

import math
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import nn

from fastadv.attacks import OutsideTopK, Status
from fastadv.attacks.contract import PROMISES, Tried
from fastadv.errors import InputError
from fastadv.threat import THREATS

from ..nets import Case, Noisy, images, labeled, labels, linear, mlp
from .cases import CASES, NAMED, OURS, options, wide
from .conftest import fitting
from .rows import row
from .unchanged import unchanged

# promises that rows, relations and closed forms check of our own attacks, over more than their own nets
ELSEWHERE = {"results_are_facts", "anything_is_served", "masks_hold"}
ELSEWHERE |= {"mates_change_nothing", "distances_are_near", "nan_stays_alone", "small_logits_are_attacked"}


def test_promises(case: Case, norm: str) -> None:
    """What anyone may ask of an attack of their own."""
    for promise in PROMISES.keys() - (ELSEWHERE if case in OURS else set()):
        PROMISES[promise](Tried(case.entry, norm, case.quick))
    if case.takes("restarts"):
        restarts_add_to_what_is_found(case, norm)


def restarts_add_to_what_is_found(case: Case, norm: str) -> None:
    """Points better those before, and where one success is enough, what is solved is attacked no more."""
    model, x, y = labeled(mlp(), images(12))
    within = wide(case, norm, scale=0.4)
    few, many = (
        case(model, x, y, within, restarts=count, **options(case, stop_early=False)) for count in (1, 3)
    )
    assert (many.success | ~few.success).all()
    if case.entry.minimal:
        assert (many.distance <= few.distance * (1 + 1e-6)).all()
        return
    assert (many.loss >= few.loss - 1e-9)[few.success == many.success].all()
    one, again = (case(model, x, y, within, restarts=count) for count in (1, 2))
    solved, left = one.success, int((~one.success).sum())
    steps = int(case.quick.get("steps", case.quick.get("queries", 1)))
    assert again.backwards - one.backwards <= steps * left
    assert again.forwards - one.forwards <= (steps + 1) * left + 12
    assert torch.equal(again.x_adv[solved], one.x_adv[solved])


def test_wrong_calls_are_answered() -> None:
    for case in CASES:
        refuses_wrong_calls(case, case.entry.norms[-1])


def refuses_wrong_calls(case: Case, norm: str) -> None:
    model, x, y = labeled(mlp(), images(4))
    threat, ball, image = wide(case, norm), THREATS[norm].__name__, torch.rand(3, 8, 8)
    one_class = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double()
    aimed = "targets: expected a class other than the label" if case.entry.targeted else "target"
    bad: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InputError, "at least two classes", {"model": one_class, "y": y * 0}),
        (InputError, r"one image \[3, 8, 8\] and one label; add .*: x\[None\]", {"x": image, "y": y[0]}),
        (InputError, aimed, {"targets": y}),
        (InputError, "criterion", {"criterion": OutsideTopK(5)}),
        (InputError, "criterion", {"criterion": "wrong"}),
        (TypeError, r"no argument alpha, iters; write step_size=.*, steps=10", {"alpha": 0.5, "iters": 10}),
    ]
    radius = torch.inf if case.entry.minimal else 2.0
    others = set(THREATS) - set(case.entry.norms)
    bad += [(InputError, "threat", {"threat": THREATS[other](radius)}) for other in others]
    if not case.entry.minimal:
        wrong = {"threat": THREATS[norm](torch.inf), **options(case, random_start=True)}
        bad.append((InputError, "radius", wrong))
    bad += [(InputError, name, {name: -1}) for name in ("steps", "queries") if case.takes(name)]
    if case.takes("starts") and case.entry.knowledge == "decision":  # which are no successes
        bad.append((InputError, "starts", {"starts": x}))
    for error, message, given in bad:
        with pytest.raises(error, match=message):
            case(**{"model": model, "x": x, "y": y, "threat": threat, **given})
    with pytest.raises(TypeError, match=rf"no argument eps, norm; write threat=fa.{ball}\((8/255|0.031[34])"):
        case.entry.run(model, x, y, eps=8 / 255, norm=ball)


def test_the_last_iterate_counts() -> None:
    """The boundary lies at 0.97 of the radius, which only the last of the small steps crosses."""
    model, x = linear(2).double(), torch.full((1, 16), 0.5, dtype=torch.float64)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.0, -float(weight @ x[0]) - 0.097 * float(weight.abs().sum())]))
    for case in fitting(kind="budget", knowledge="gradient"):
        out = case(model, x, torch.zeros(1, dtype=torch.long), THREATS["linf"](0.1))
        assert out.success.all(), case.name


# the course of a call is the same for all; of each kind of search one
KINDS = ["pgd", "square", "deepfool", "boundary", "minimum_norm", "autoattack"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore:.* in training mode and has gradients")
def test_nothing_is_left_after_an_exception_of_the_model(name: str) -> None:
    case, asked, calls, most = NAMED[name], row(3), [0], [math.inf]
    arguments = asked.model, asked.x, asked.y, asked.threat(case, case.entry.norms[0])

    def fail(*_: object) -> None:
        calls[0] += 1
        if calls[0] > most[0]:
            raise ZeroDivisionError

    with asked.model.register_forward_pre_hook(fail):
        case(*arguments)
        calls[0], most[0] = 0, 0.6 * calls[0]
        with unchanged(asked.model, asked.x, asked.y), pytest.raises(ZeroDivisionError):
            case(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "eot"), [*zip(KINDS, cycle([1, 2]))])
def test_two_answers(name: str, eot: int) -> None:
    """Of a randomized model a success is what one fresh call says, and a flag says why."""
    case, sizes = NAMED[name], list[int]()
    model, x = Noisy(0.2, sizes.append), images(40)
    threat = wide(case, case.entry.norms[0], scale=2)
    out = case(model, x, labels(model.net, x), threat, eot=eot, **options(case, indicators=False))
    assert out.flags
    assert out.success.any()
    assert out.forwards == sum(sizes)
    assert threat.contains(out.x_adv, x).all()
    broken = out.status == Status.BROKEN
    assert torch.equal(out.distance.isfinite(), out.success)
    assert torch.equal(out.success, broken | (out.status == Status.ALREADY_WRONG))
