"""The pitfalls of attack libraries, tried with every attack of the registry for which they make sense.

Each is named after its number in docs/pitfalls.md, which says where the others are held.
"""

import math

import pytest
import torch
from torch import Tensor

from fastadv.attacks import Status

from ..nets import THREATS, Case, Noisy, images, labeled, labels, linear, mlp, threat
from .cases import options, wide
from .unchanged import trained, unchanged

pytestmark = pytest.mark.slow  # thousands of short runs


def test_02_what_is_nan_touches_its_own_sample(case: Case, norm: str) -> None:
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


def test_02_logits_that_are_nan_on_the_way_are_no_success(case: Case, norm: str) -> None:
    """One coordinate counts, and a logit is NaN from where x is nearly; argmax takes NaN for the largest."""
    net = linear(2)
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[1, 0] = 1.0
        net[1].bias.copy_(torch.tensor([0.9, 0.0]))
    x = torch.full((4, 1, 4, 4), 0.5) - 1e-3

    def model(x: Tensor) -> Tensor:
        return torch.where(x.flatten(1)[:, :1] > 0.5, torch.tensor([0.9, torch.nan]), net(x))

    out = case(model, x, torch.zeros(4, dtype=torch.long), threat(norm))
    assert not out.success.any()
    assert out.distance.isinf().all()
    assert (out.status == Status.FAILED).all() or case.entry.knowledge != "gradient"
    assert threat(norm).contains(out.x_adv, x).all()


@pytest.mark.only(kind="budget", knowledge="gradient")
def test_09_the_last_iterate_counts(case: Case) -> None:
    # the boundary lies at 0.97 of the radius, which only the last of the small steps crosses
    model, x = linear(2).double(), torch.full((1, 16), 0.5, dtype=torch.float64)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.0, -float(weight @ x[0]) - 0.097 * float(weight.abs().sum())]))
    assert case(model, x, torch.zeros(1, dtype=torch.long), THREATS["linf"](0.1)).success.all()


@pytest.mark.only(takes=("restarts", "stop_early"))
def test_10_solved_samples_are_not_attacked_again(case: Case, norm: str) -> None:
    model, x, y = labeled(mlp(), images(24))
    one = case(model, x, y, threat(norm))
    solved, left = one.success, int((~one.success).sum())
    again = case(model, x, y, threat(norm), restarts=2)
    steps = int(case.quick.get("steps", case.quick.get("queries", 1)))
    assert again.backwards - one.backwards <= steps * left
    assert again.forwards - one.forwards <= (steps + 1) * left + 24
    assert torch.equal(again.x_adv[solved], one.x_adv[solved])


def test_11_nothing_is_left_after_an_exception_of_the_model(case: Case, norm: str) -> None:
    model, x, calls, most = trained(), images(3, (2, 8, 8), dtype=torch.float32), [0], [math.inf]
    y, inside = labels(model, x), threat(norm)

    def fail(*_: object) -> None:
        calls[0] += 1
        if calls[0] > most[0]:
            raise ZeroDivisionError

    model.register_forward_pre_hook(fail)
    case(model, x, y, inside)
    calls[0], most[0] = 0, 0.6 * calls[0]
    with unchanged(model, x, y), pytest.raises(ZeroDivisionError):
        case(model, x, y, inside)


@pytest.mark.only(takes="loss")
@pytest.mark.covered("given", [("ce", 2), ("margin", 3), ("dlr", 2), ("dlr", 3), ("cw", 2)])
def test_13_losses_that_rank_classes_may_run_out_of_them(case, norm, given):
    loss, classes = given
    if loss == "ce" and case.name in ("fmn", "pdgd", "pdpgd"):  # whose losses are 0 at the boundary
        loss = "margin"
    model, x, y = labeled(mlp(classes), images(12))
    out = case(model, x, y, threat(norm, 3), loss=loss)
    assert out.success.any() or case.entry.minimal or case.entry.knowledge != "gradient"
    assert (out.status != Status.FAILED).all()
    out = case(model, x, y, threat(norm, 4), loss=loss, targets=(y + 1) % classes)
    assert (out.status != Status.FAILED).all()
    assert out.x_adv.isfinite().all()


@pytest.mark.only(kind="budget")
def test_15_eight_bits_keep_the_verdict(case: Case, norm: str) -> None:
    model, x = linear(4), (images(32, dtype=torch.float32) * 255).round() / 255
    y, inside = labels(model, x), threat(norm)
    out = case(model, x, y, inside, **options(case, stop_early=False))
    stored = (inside.quantize(out.x_adv, x) * 255).round().to(torch.uint8)
    read: Tensor = stored.float() / 255
    assert inside.contains(read, x).all()
    assert out.success.sum() >= 4
    assert (labels(model, read) != y)[out.success].float().mean() > 0.9


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
