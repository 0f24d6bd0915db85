"""What every attack promises besides what a single result shows, which is in test_rows.py."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult, OutsideTopK, Status
from fastadv.attacks.contract import PROMISES, Tried
from fastadv.errors import InputError
from fastadv.threat import THREATS

from ..nets import Case, Noisy, images, labeled, labels, linear, mlp, threat
from .cases import options, wide
from .rows import row
from .unchanged import unchanged

# promises that the rows, the relations, the closed forms and tests here check over more than their own nets
ELSEWHERE = {"results_are_facts", "anything_is_served", "masks_hold"}
ELSEWHERE |= {"mates_change_nothing", "distances_are_near", "nan_stays_alone", "small_logits_are_attacked"}


def test_promises(case: Case, norm: str) -> None:
    """What anyone may ask of an attack of their own."""
    for promise in PROMISES.keys() - ELSEWHERE:
        PROMISES[promise](Tried(case.entry, norm, case.quick))


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


def test_wrong_calls_are_answered(case: Case, norm: str) -> None:
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


def test_what_is_nan_touches_its_own_sample(case: Case, norm: str) -> None:
    """Where the first coordinate is above 2/3 the gradient by the second is, from 0.9 to 0.95 the logits."""
    net, x, place = mlp(), images(12), torch.arange(12) % 4

    def model(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        root = torch.where(flat[:, 0] > 2 / 3, 0 * flat[:, 1], torch.ones_like(flat[:, 1])).sqrt()
        return net(x) + torch.where((flat[:, 0] > 0.9) & (flat[:, 0] < 0.95), torch.nan, 0 * root)[:, None]

    x.flatten(1)[:, 0] = torch.where(place == 0, 0.8, torch.where(place == 1, 0.92, 0.3))
    y, inside, others = labels(net, x), threat(norm), place > 1
    out = case(model, x, y, inside)
    assert inside.contains(out.x_adv, x).all()
    assert torch.equal(out.x_adv[place == 1], x[place == 1])
    assert (out.status[place == 1] == Status.FAILED).all()
    assert torch.equal(out.success[place != 1], (labels(model, out.x_adv) != y)[place != 1])
    flat = (place == 0) & ~out.success
    assert (out.status[flat] == Status.FAILED).all() or norm == "l0" or case.entry.knowledge != "gradient"
    # L0 may write any value into the coordinate that poisons, L1 many
    alone = case(model, x[others], y[others], inside, ids=torch.arange(12)[others])
    torch.testing.assert_close(out.x_adv[others], alone.x_adv)
    assert torch.equal(out.status[others], alone.status)
    if norm not in ("l0", "l1") and case.entry.knowledge == "gradient":
        assert (alone.status != Status.FAILED).all()
    none_on_the_way_is_a_success(case, norm)


def none_on_the_way_is_a_success(case: Case, norm: str) -> None:
    """One coordinate counts, and a logit is NaN from where x is nearly; argmax takes NaN for the largest."""
    x = torch.full((4, 1, 4, 4), 0.5) - 1e-3

    def model(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1]
        return torch.cat([0.9 + 0 * first, torch.where(first > 0.5, torch.nan, first)], 1)

    out = case(model, x, torch.zeros(4, dtype=torch.long), threat(norm))
    assert not out.success.any()
    assert out.distance.isinf().all()
    assert (out.status == Status.FAILED).all() or case.entry.knowledge != "gradient"
    assert threat(norm).contains(out.x_adv, x).all()


@pytest.mark.only(kind="budget", knowledge="gradient")
def test_the_last_iterate_counts(case: Case) -> None:
    """The boundary lies at 0.97 of the radius, which only the last of the small steps crosses."""
    model, x = linear(2).double(), torch.full((1, 16), 0.5, dtype=torch.float64)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.0, -float(weight @ x[0]) - 0.097 * float(weight.abs().sum())]))
    assert case(model, x, torch.zeros(1, dtype=torch.long), THREATS["linf"](0.1)).success.all()


@pytest.mark.only(takes=("restarts", "stop_early"))
def test_solved_samples_are_not_attacked_again(case: Case, norm: str) -> None:
    model, x, y = labeled(mlp(), images(24))
    one = case(model, x, y, threat(norm))
    solved, left = one.success, int((~one.success).sum())
    again = case(model, x, y, threat(norm), restarts=2)
    steps = int(case.quick.get("steps", case.quick.get("queries", 1)))
    assert again.backwards - one.backwards <= steps * left
    assert again.forwards - one.forwards <= (steps + 1) * left + 24
    assert torch.equal(again.x_adv[solved], one.x_adv[solved])


@pytest.mark.filterwarnings("ignore:.* in training mode and has gradients")
def test_nothing_is_left_after_an_exception_of_the_model(case: Case, norm: str) -> None:
    asked, calls, most = row(3), [0], [math.inf]
    arguments = asked.model, asked.x, asked.y, asked.threat(case, norm)

    def fail(*_: object) -> None:
        calls[0] += 1
        if calls[0] > most[0]:
            raise ZeroDivisionError

    with asked.model.register_forward_pre_hook(fail):
        case(*arguments)
        calls[0], most[0] = 0, 0.6 * calls[0]
        with unchanged(asked.model, asked.x, asked.y), pytest.raises(ZeroDivisionError):
            case(*arguments)


def test_two_answers(case: Case, norm: str) -> None:
    """Of a randomized model a success is what one fresh call says, and a flag says why."""
    sizes: list[int] = []
    eot = 1 + len(case.name) % 2  # either for about half of the attacks
    model, x = Noisy(0.2, sizes.append), images(40)
    threat = wide(case, norm, scale=2)
    out = case(model, x, labels(model.net, x), threat, eot=eot, **options(case, indicators=False))
    assert out.flags
    assert out.success.any()
    assert out.forwards == sum(sizes)
    assert threat.contains(out.x_adv, x).all()
    broken = out.status == Status.BROKEN
    assert torch.equal(out.distance.isfinite(), out.success)
    assert torch.equal(out.success, broken | (out.status == Status.ALREADY_WRONG))
