"""What every attack promises, whatever it asks of the model."""

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult, OutsideTopK, Status
from fastadv.attacks.contract import PROMISES, Tried
from fastadv.attacks.core import samples as staying
from fastadv.engine import Frozen, freeze
from fastadv.errors import InputError
from fastadv.losses import loss_value
from fastadv.models import Binarized
from fastadv.threat import THREATS
from tests.refusals import refuses

from ..halfspaces import nearest
from ..nets import Case, Counted, images, labeled, labels, linear, mlp
from ..watched import watched
from .cases import options, plainly, two_classes, wide
from .unchanged import trained, unchanged


def check_facts(model: nn.Module, x: Tensor, y: Tensor, threat: object, out: object, minimal: bool) -> None:
    """What the result says is what the model says; nothing leaves ball or box."""
    assert torch.equal(out.success, (labels(model, out.x_adv) != y) | (out.status == Status.ALREADY_WRONG))
    assert threat.contains(out.x_adv, x).all()
    broken, held = out.status == Status.BROKEN, out.status >= Status.HELD
    away = threat.distance(out.x_adv, x).float()
    torch.testing.assert_close(out.distance[broken], away[broken])
    assert out.distance[held].isinf().all()
    assert (out.distance[out.status == Status.ALREADY_WRONG] == 0).all()
    unmoved = held | (out.status == Status.ALREADY_WRONG) if minimal else out.status == Status.ALREADY_WRONG
    assert torch.equal(out.x_adv[unmoved], x[unmoved])


@cache
def both_twins() -> tuple[Counter[str], nn.Module, Frozen]:
    seen: Counter[str] = Counter()
    model = Counted(trained(), lambda n: seen.update(forward=n), lambda n: seen.update(backward=n))
    return seen, model, freeze(model, "bf16")


@pytest.mark.slow
@pytest.mark.all_norms
def test_the_result_is_a_fact_and_the_model_is_left_as_it_was(case, norm, search_copy):
    seen, model, lower = both_twins()
    x = images(16, (2, 8, 8), dtype=torch.float32)
    y = labels(model, x)
    y[:3] = (y[:3] + 1) % 4
    threat, option = wide(case, norm), case.entry.parameters.get("loss")
    loss = option.default if option is not None and isinstance(option.default, str) else "margin"
    for frozen in (model, lower):
        x.requires_grad_()
        seen.clear()
        # indicators call parts of the model by themselves
        few = options(case, stop_early=norm != "l2", indicators=False)
        with unchanged(model, x, y):
            out = case(frozen, x, y, threat, **few)
        assert (out.forwards, out.backwards) == (seen["forward"], seen["backward"])
        assert (out.backwards == 0) == (case.entry.knowledge != "gradient")
        assert not out.x_adv.requires_grad
        assert not out.loss.requires_grad
        assert x.grad is None
        assert out.x_adv.data_ptr() != x.data_ptr()
        x = x.detach()
        check_facts(model, x, y, threat, out, case.entry.minimal)
        assert (out.status[:3] == Status.ALREADY_WRONG).all()
        wanted = loss_value(lower.verdict(out.x_adv), y, loss)
        torch.testing.assert_close(out.loss, wanted, rtol=1e-4, atol=1e-4)
        # scores that `nes` subtracts from each other differ by rounding alone in bfloat16
        lost = frozen is not model and case.name == "nes"
        assert out.success[3:].any() or lost


@pytest.mark.slow
@pytest.mark.all_norms
def test_the_distance_of_a_linear_model(case: Case, norm: str) -> None:
    """D = 196, saturated pixels among them: within the tolerance, and never nearer than the boundary."""
    x = images(4, (1, 14, 14))
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))
    model, _ = two_classes(x, 3.0)
    y = torch.zeros(4, dtype=torch.long)
    distance, _ = nearest(model, x, y, norm)
    if case.entry.minimal:
        out = case(model, x, y, THREATS[norm](torch.inf), **case.oracle)
        assert out.success.all()
        assert (out.distance >= distance * (1 - 1e-4)).all()
        assert (out.distance <= distance * case.entry.tolerance + (norm == "l0")).all()
        return
    enough, less = distance * case.entry.tolerance, distance * 0.97
    if norm == "l0":
        enough, less = enough.ceil(), less - 1
    threat = THREATS[norm](torch.cat([enough, less]))
    out = case(model, torch.cat([x, x]), torch.cat([y, y]), threat, **case.oracle)
    assert out.success.tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("promise", PROMISES)
def test_promises(case: Case, norm: str, promise: str) -> None:
    """What anyone may ask of an attack of their own."""
    PROMISES[promise](Tried(case.entry, norm, case.quick))


def test_targets(case: Case, norm: str) -> None:
    model, x, y = labeled(linear(4).double(), images(12))
    if not case.entry.targeted:
        refuses("target", case, model, x, y, wide(case, norm), targets=(y + 1) % 4)
        return
    refuses("targets: expected a class other than the label", case, model, x, y, wide(case, norm), targets=y)


@pytest.mark.slow
def test_more_is_never_worse(case: Case, norm: str) -> None:
    """Restarts add points to those before; more steps may be planned in another way."""
    model, x = mlp(), images(12)
    y, threat = labels(model, x), wide(case, norm, scale=0.4)

    def attacked(option: str, count: int) -> AttackResult:
        return case(model, x, y, threat, **{option: count}, **options(case, stop_early=False))

    for option in filter(case.takes, ("steps", "queries")):
        few, many = (attacked(option, times * case.quick.get(option, 1)) for times in (1, 2))
        assert many.success.sum() >= few.success.sum()
        if case.entry.minimal and few.success.all():
            assert many.distance.mean() <= few.distance.mean() * 1.02 + 1e-6
    if case.takes("restarts"):
        few, many = (attacked("restarts", count) for count in (1, 3))
        assert (many.success | ~few.success).all()
        assert case.entry.minimal or (many.loss >= few.loss - 1e-9)[few.success == many.success].all()
        assert not case.entry.minimal or (many.distance <= few.distance * (1 + 1e-6)).all()


@pytest.mark.covered("classes", [2, 10, 1000])
def test_class_counts(case: Case, norm: str, classes: int) -> None:
    model, x = linear(classes).double(), images(6)
    if classes == 2:  # the boundary passes between the samples
        with torch.no_grad():
            model[1].bias[0] -= (model(x)[:, 0] - model(x)[:, 1]).median()
    y = labels(model, x)
    out = case(model, x, y, wide(case, norm))
    assert torch.equal(out.success, labels(model, out.x_adv) != y)
    assert out.success.any()


def test_saturated_pixels_move(case: Case, norm: str) -> None:
    model, x, y = labeled(mlp(), images(12).round())
    out = case(model, x, y, wide(case, norm))
    assert out.success.any()
    assert (out.x_adv != x).flatten(1).any(1)[out.success].all()


def test_a_mask_holds(case: Case, norm: str) -> None:
    model, x, y = labeled(mlp(), images(10))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[0], mask[1, 2] = False, False
    function, seen = watched(model)
    # signs of masking are looked for beside the search, in whole images
    alone = {"indicators": False} if case.entry.name == "autoattack" else {}
    out = case(function, x, y, wide(case, norm), mask=mask, **alone)
    # nothing else is asked of the model, nor of attacks by decisions anything outside the box
    asked = torch.cat(seen)
    assert (asked[:, None, :, ~mask] == x[:, :, ~mask]).flatten(2).all(2).any(1).all()
    assert case.entry.knowledge != "decision" or (asked.amin() >= 0 and asked.amax() <= 1)
    assert out.success.any()


def test_wrong_calls_are_answered(case: Case, norm: str) -> None:
    model, x, y = labeled(mlp(), images(4))
    threat, ball, image = wide(case, norm), THREATS[norm].__name__, torch.rand(3, 8, 8)
    one_class = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double()
    bad: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InputError, "at least two classes", {"model": one_class, "y": y * 0}),
        (InputError, r"one image \[3, 8, 8\] and one label; add .*: x\[None\]", {"x": image, "y": y[0]}),
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


def test_a_model_that_binarizes(case: Case, norm: str) -> None:
    model, x = Binarized(mlp(), 0.5), images(12)
    y, threat, mask = labels(model, x), wide(case, norm), torch.ones(4, 4, dtype=torch.bool)
    mask[0, 0] = False
    out = case(model, x, y, threat, mask=mask)
    check_facts(model, x, y, threat, out, case.entry.minimal)
    assert not (out.x_adv != x)[:, :, ~mask].any()
    assert out.success.any()


def test_a_share_of_a_radius_of_zero_is_no_step(case: Case, norm: str) -> None:
    if not case.takes("step_size") or case.entry.minimal:
        pytest.skip("no share of a radius")
    model, x, y = labeled(mlp(), images(6))
    radii = torch.tensor([0.0, 5.0 if norm in ("l0", "l1") else 0.9]).repeat(3)
    assert torch.equal(case(model, x, y, THREATS[norm](0.0), step_size=0.0).x_adv, x)
    out = case(model, x, y, THREATS[norm](radii), step_size=radii.ceil() if norm == "l0" else radii / 4)
    assert torch.equal(out.x_adv[::2], x[::2])


def test_leaving_seldom_changes_no_fact(case: Case, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, samples leave after 1, 2, 4, 8 ... evaluations alone; until then they are passed."""
    model, x, often = mlp(), images(8), plainly(case.name, norm)
    y, threat = labels(model, x), wide(case, norm)
    monkeypatch.setattr(staying, "may_leave", lambda look, device: (look + 1) & look == 0)
    seldom = case(model, x, y, threat)
    check_facts(model, x, y, threat, seldom, case.entry.minimal)
    assert seldom.forwards >= often.forwards
    assert (seldom.success | ~often.success).all()
    assert not case.entry.minimal or (seldom.distance <= often.distance * (1 + 1e-6)).all()
