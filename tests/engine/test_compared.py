"""A search copy is compared with the model, once for each kind of pass, and not used where it differs."""

from collections.abc import Callable
from itertools import cycle, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import Plain, compare
from fastadv.engine.frozen import DENIED
from tests.engine.nets import answers, apart
from tests.engine.planted import Change, Changed
from tests.logged import Logged

pytestmark = pytest.mark.usefixtures("small_ones_too")

X = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.arange(24) % 5
FELL = "fell back to the model as given: the {} " + compare.WRONG


def in_the_gradient(change: Change) -> Change:
    return lambda h: Changed.apply(h, change)


class Net(nn.Module):
    """A net that changes its activations wherever a search copy computes them, as a wrong rewrite would."""

    def __init__(self, change: Change = lambda h: h) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.hidden, self.last = nn.Conv2d(16, 16, 3), nn.Linear(576, 64), nn.Linear(64, 5)
        self.change = change
        self.norm.running_mean.uniform_(-0.2, 0.2)
        self.norm.running_var.uniform_(0.2, 1)

    def forward(self, x: Tensor) -> Tensor:
        ROWS.append(len(x))
        h = self.norm(self.first(x)).relu()
        if not h.is_contiguous() or h.dtype != torch.float32:
            h = self.change(h)
        h = self.second(h).relu().flatten(1)
        return self.last(F.elu(self.hidden(h)))


ROWS: list[int] = []


def fell_back(frozen: fa.Frozen) -> bool:
    return any("fell back" in note for note in frozen.notes)


# planted mistakes, and what differs then
WRONG: dict[str, tuple[Change, str]] = {
    "sign": (in_the_gradient(torch.neg), "gradient"),
    "zero": (in_the_gradient(torch.zeros_like), "gradient"),
    "length": (in_the_gradient(lambda gradient: 1.5 * gradient), "gradient"),
    "order": (in_the_gradient(lambda gradient: gradient.flip(-1)), "gradient"),
    "with a gradient alone": (lambda h: 0.3 * h if h.requires_grad else h, "logits"),
    "values": (lambda h: 1.3 * h, "logits"),
    "layout": (lambda h: h.flip(2), "logits"),
}


WAYS = dict(zip(WRONG, cycle(product(["fp32", "bf16"], ["gradient", "jacobian"])), strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("plant", WRONG)
def test_a_copy_that_is_wrong_is_not_used(plant: str, logged: Logged) -> None:
    """Whether a gradient is asked for first or a jacobian, in either precision."""
    (precision, way), (change, what) = WAYS[plant], WRONG[plant]
    model, eye = Net(change).eval(), torch.eye(5).expand(24, 5, 5)
    frozen, plain = fa.freeze(model, precision), Plain(model)  # type: ignore[arg-type]
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
def test_each_shape_and_dtype_is_compared_once() -> None:
    """Logits, and the gradient where one is taken; whatever the batch but a single row, and its values."""
    model = Net().eval()
    frozen = fa.freeze(model)
    asks: dict[str, Callable[[Tensor], object]] = {
        "gradient": lambda x: frozen.input_gradient(x, Y[: len(x)]),
        "jacobian": lambda x: frozen.jacobian(x, torch.eye(5).expand(len(x), 5, 5)),
        "logits": frozen,
    }
    calls = [("gradient", X, True), ("gradient", 9 * X[:5], False), ("jacobian", X, False)]
    calls += [("logits", X, True), ("logits", X[:3], False), ("gradient", X[:1], True)]
    calls += [("jacobian", X.double(), True), ("gradient", X.double(), False), ("logits", X.double(), True)]
    for way, x, expected in calls:
        before = frozen.compared
        asks[way](x)
        assert (frozen.compared != before) == expected, (way, x.shape, x.dtype)


@pytest.mark.parametrize("wrong", [False, True])
def test_every_pass_is_counted_also_of_a_copy_that_is_wrong(wrong: bool) -> None:
    frozen = fa.freeze(Net(in_the_gradient(torch.neg) if wrong else lambda h: h).eval())
    ROWS.clear()
    frozen.input_gradient(X, Y)
    assert fell_back(frozen) == wrong
    assert frozen.forwards == sum(ROWS)
    assert frozen.asked == (24, 24)
    assert frozen.compared == (sum(ROWS) - 24, frozen.backwards - 24)
    assert frozen.compared[0] > frozen.compared[1] > 0
    frozen(X)
    assert frozen.asked == (48, 24)


@pytest.mark.slow
def test_small_logits_deny_no_loss() -> None:
    """As those of an untrained net: ce_sharp scales them up, and a loss near log 5 rounds more than they."""
    net = Net().eval()
    with torch.no_grad():
        for weight in net.last.parameters():
            weight.mul_(1e-9)
    for precision in ("fp32", "bf16"):
        frozen = fa.freeze(net, precision)  # type: ignore[arg-type]
        fa.attacks.pgd(frozen, X, net(X).argmax(1), fa.Linf(0.01), steps=3, stop_early=False)
        assert not frozen.exact
        assert DENIED not in frozen.notes


def test_where_there_is_nothing_to_compare_the_next_pass_is() -> None:
    model = Net(in_the_gradient(torch.neg)).eval()
    frozen = fa.freeze(model)
    frozen.input_gradient(X * torch.nan, Y)
    assert not fell_back(frozen)
    assert apart(frozen.input_gradient(X, Y)[2], answers(model, X, Y)[1]) < 1e-4
    assert fell_back(frozen)


@pytest.mark.slow
def test_the_verdict_is_held_against_the_losses_of_the_search(logged: Logged) -> None:
    """What turned wrong after it was compared is found by the next attack at the latest."""
    off: list[int] = []
    frozen = fa.freeze(Net(lambda h: 0.2 * h if off else h).eval())
    y = frozen.verdict(X).argmax(1)

    def attack() -> None:
        fa.attacks.pgd(frozen, X, y, fa.Linf(0.001), steps=3)

    attack()
    assert DENIED not in frozen.notes
    off.append(1)
    attack()
    assert DENIED in frozen.notes
    attack()  # which compares it again
    assert FELL.format("logits") in frozen.notes
    assert len(logged.records) == 2
    logged.records.clear()
    attack()
    assert not logged.records


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
    cosines = [note for note in frozen.notes if "mean cosine with the model's" in note]
    assert len(cosines) == 1
    assert (float(cosines[0].split()[-1]) < 0.8) == far
    assert [record.levelname for record in logged.records] == ["WARNING"] * far
