"""A search copy is compared with the model, once for each kind of pass, and not used where it differs."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, compare, guard, search_copy
from fastadv.engine.frozen import DENIED
from fastadv.engine.guard import allowed
from tests.engine.planted import WRONG, Net, X, Y, apart, convolved, needs_onednn, thinly
from tests.engine.rewritten import answers
from tests.logged import Logged

pytestmark = pytest.mark.usefixtures("small_ones_too")

FELL = "fell back to the model as given: the {} " + compare.WRONG


def fell_back(frozen: fa.Frozen) -> bool:
    return any("fell back" in note for note in frozen.notes)


@needs_onednn
@pytest.mark.parametrize("way", ["gradient", "jacobian"])
@pytest.mark.parametrize(
    ("plant", "precision"), [(name, precision) for name in WRONG for precision in WRONG[name][1]]
)
def test_a_copy_that_is_wrong_is_not_used(plant, precision, way, monkeypatch, logged):
    wrong, _, what = WRONG[plant]
    wrong(monkeypatch)
    model, eye = Net().eval(), torch.eye(5).expand(24, 5, 5)
    frozen, plain = fa.freeze(model, precision), Plain(model)
    for _ in range(2):
        if way == "gradient":
            for one, other in zip(frozen.input_gradient(X, Y), plain.input_gradient(X, Y), strict=True):
                assert torch.equal(one, other)
        else:
            assert torch.equal(frozen.jacobian(X, eye)[1], plain.jacobian(X, eye)[1])
        assert torch.equal(frozen(X), plain(X))
    assert frozen.exact
    assert [note for note in frozen.notes if "fell back" in note] == [FELL.format(what)]
    assert len(logged.records) == 1


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_right_stays(precision: Any, logged: Logged) -> None:
    model = Net().eval()
    frozen = fa.freeze(model, precision)
    for count in (1, 2, 5, 16, 24):
        found = frozen.input_gradient(X[:count], Y[:count])[2]
        assert apart(found, answers(model, X[:count], Y[:count])[1]) < (1e-4 if precision == "fp32" else 0.2)
    y = frozen.verdict(X).argmax(1)
    for loss in ("ce", "margin", "dlr"):
        fa.attacks.pgd(frozen, X, y, fa.Linf(0.05), steps=5, loss=loss)
    assert not logged.records
    assert DENIED not in frozen.notes
    assert not fell_back(frozen)


@pytest.mark.slow
def test_each_shape_and_dtype_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, and the gradient where one is taken; whatever the batch but a single row, and its values."""
    asked = Counter[str]()
    for name in ("same_logits", "same_gradient"):
        real = getattr(guard, name)
        monkeypatch.setattr(guard, name, lambda *given, n=name, f=real: (asked.update([n]), f(*given))[1])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    frozen, eye = fa.freeze(model.append(nn.Linear(32, 5)).eval()), torch.eye(5)
    for count in (24, 5, 1, 24):
        frozen.input_gradient(9 * X[:count], Y[:count])
        frozen.jacobian(X[:count], eye.expand(count, 5, 5))
    assert asked == {"same_logits": 2, "same_gradient": 2}
    for count in (24, 3):
        frozen(X[:count])
    assert asked == {"same_logits": 3, "same_gradient": 2}
    for x in (X[:, :, :7], X.double()):
        frozen.input_gradient(x, Y)
        frozen(x)
    assert asked == {"same_logits": 7, "same_gradient": 4}
    with torch.no_grad():
        model[0].weight.mul_(2)  # which freezes it anew
    frozen.input_gradient(X, Y)
    assert asked == {"same_logits": 8, "same_gradient": 5}


@needs_onednn
@pytest.mark.slow
@pytest.mark.parametrize("wrong", [False, True])
def test_every_pass_is_counted_also_of_a_copy_that_is_wrong(wrong: bool, monkeypatch) -> None:
    rows, forward = list[int](), Net.forward
    monkeypatch.setattr(Net, "forward", lambda self, x: rows.append(len(x)) or forward(self, x))
    if wrong:
        thinly(torch.neg)(monkeypatch)
    frozen = fa.freeze(Net().eval())
    frozen.input_gradient(X, Y)
    assert fell_back(frozen) == wrong
    assert frozen.forwards == sum(rows)
    assert frozen.asked == (24, 24)
    assert frozen.compared == (sum(rows) - 24, frozen.backwards - 24)
    assert frozen.compared[0] > frozen.compared[1] > 0


@needs_onednn
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("scale", [0.01, 1e-9])
def test_small_logits_deny_no_loss(scale: float, precision: Any) -> None:
    """As those of an untrained net: ce_sharp scales them up, and a loss near log 5 rounds more than they."""
    net = Net().eval()
    with torch.no_grad():
        for weight in net.last.parameters():
            weight.mul_(scale)
    frozen = fa.freeze(net, precision)
    fa.attacks.pgd(frozen, X, net(X).argmax(1), fa.Linf(0.01), steps=3, stop_early=False)
    assert not frozen.exact
    assert DENIED not in frozen.notes


def test_where_there_is_nothing_to_compare_the_next_pass_is(monkeypatch: pytest.MonkeyPatch) -> None:
    thinly(torch.neg)(monkeypatch)
    model, frozen = Net().eval(), fa.freeze(Net().eval())
    frozen.input_gradient(X * torch.nan, Y)
    assert not fell_back(frozen)
    assert apart(frozen.input_gradient(X, Y)[2], answers(model, X, Y)[1]) < 1e-4
    assert fell_back(frozen)


@needs_onednn
@pytest.mark.slow
def test_the_verdict_is_held_against_the_losses_of_the_search(monkeypatch, logged):
    """What turned wrong after it was compared is found by the next attack at the latest."""
    off: list[int] = []
    convolved(lambda out: out * 0.2 if off else out)(monkeypatch)
    frozen = fa.freeze(Net().eval())
    y = frozen.verdict(X).argmax(1)

    def attack() -> None:
        fa.attacks.pgd(frozen, X, y, fa.Linf(0.001), steps=3)

    attack()
    assert DENIED not in frozen.notes
    off.append(1)
    attack()
    assert DENIED in frozen.notes
    attack()  # which compares it again
    assert fell_back(frozen)
    assert len(logged.records) == 2
    logged.records.clear()
    attack()
    assert not logged.records


@needs_onednn
@pytest.mark.slow
@pytest.mark.parametrize(("share", "eot", "denied"), [(1.9, 1, False), (2.1, 1, True), (2.1, 2, False)])
def test_losses_may_differ_twice_as_far_as_logits(share: float, eot: int, denied: bool) -> None:
    frozen = fa.freeze(Net().eval(), eot=eot)
    verdict = frozen.verdict(X)
    frozen(X)
    frozen.hold(share * allowed(verdict, [torch.float32]), verdict)
    assert (DENIED in frozen.notes) == denied


def test_a_copy_that_is_denied_twice_is_left() -> None:
    """As one that differs for batches of another size than the comparison's."""
    frozen = fa.freeze(Net().eval())
    verdict, (logits, _) = frozen.verdict(X), answers(Net().eval(), X, Y)
    for times in (1, 2):
        assert not torch.equal(frozen(X), logits)
        assert frozen.hold(3 * allowed(verdict, [torch.float32]), verdict)
        assert fell_back(frozen) == (times == 2)
    assert torch.equal(frozen(X), frozen.verdict(X))


@needs_onednn
@pytest.mark.slow
def test_a_point_outside_for_which_x_stands_denies_nothing() -> None:
    frozen = fa.freeze(Net().eval())
    y = frozen.verdict(X).argmax(1)

    def outside(search: Any) -> None:
        search.gradient((search.x + 0.01).clamp(0, 1))

    out = fa.attacks.core.run(frozen, X, y, fa.Linf(0.001), outside, loss="ce")
    assert frozen.as_given is not frozen
    assert torch.equal(out.x_adv, X)
    assert DENIED not in frozen.notes


def test_both_formats_set_the_bounds_and_a_gpus_rounds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `rounds_as` says, for the logits and what a search is held to."""
    model = Net().eval()
    frozen, x, y = fa.freeze(model), X[:4], torch.arange(4)
    half = fa.freeze(model.double(), "bf16")
    half.settle(x.double())
    monkeypatch.setattr(search_copy, "rounds_as", lambda format, device: f"{format} there")
    assert half.search.formats(x.device) == ["torch.float64 there", "torch.bfloat16 there"]
    model.float()
    monkeypatch.setattr(search_copy, "rounds_as", lambda format, device: "tf32")
    frozen.input_gradient(x, y)
    logits = frozen.verdict(x)
    frozen.hold(allowed(logits, ["tf32"]), logits)
    assert frozen.search.knows(x)
    frozen.hold(3 * allowed(logits, ["tf32"]), logits)
    assert not frozen.search.knows(x)


class Rough(nn.Module):
    """Logits that are almost linear, with ripples whose gradient no bfloat16 tells."""

    def __init__(self, ripples: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.own, self.ripples = nn.Linear(64, 64), nn.Linear(64, 5), ripples

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x.flatten(1))
        return self.own(h + self.ripples * (3000 * h).sin())


@pytest.mark.parametrize(("ripples", "far"), [(0.0, False), (0.0003, True)])
def test_the_cosine_in_half_precision_is_told_and_a_poor_search_is_left(ripples, far, logged):
    frozen = fa.freeze(Rough(ripples).eval(), "bf16")
    for _ in range(2):
        frozen.input_gradient(X, Y)
    assert frozen.search_dtype == (torch.float32 if far else torch.bfloat16)
    told = [note for note in frozen.notes if "mean cosine with the model's" in note]
    assert len(told) == 1
    assert (float(told[0].split()[-1]) < 0.8) == far
    assert [record.levelname for record in logged.records] == ["WARNING"] * far
