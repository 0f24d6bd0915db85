"""A search copy is compared with the model, once for each kind of pass, and not used where it differs."""

import random
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, guard, search_copy
from fastadv.engine.cpu import winograd
from fastadv.engine.frozen import DENIED
from fastadv.engine.guard import allowed
from tests.engine.nets import convnet, images
from tests.engine.planted import Net, Planted, X, Y, apart, convolved, linear, needs_onednn, thinly, wino
from tests.engine.rewritten import answers
from tests.logged import Logged

pytestmark = pytest.mark.usefixtures("small_ones_too")

FELL = "fell back to the model as given: " + search_copy.WRONG
WRONG: dict[str, Planted] = {
    "thin": thinly(torch.neg),
    "thin, zero": thinly(torch.zeros_like),
    "thin, length": thinly(lambda gradient: 1.5 * gradient),
    "thin, order": thinly(lambda gradient: gradient.flip(-1)),
    "onednn": linear(torch.neg),
    "winograd": wino(torch.neg),
}


def fell_back(frozen: fa.Frozen) -> bool:
    return any("fell back" in note for note in frozen.notes)


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize("plant", WRONG)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_copy_whose_backward_is_wrong_is_not_used(plant, precision, monkeypatch, logged):
    if precision == "bf16" and (
        plant == "onednn" or (plant == "winograd" and not winograd.available(torch.bfloat16))
    ):
        pytest.skip("not done so in bfloat16")
    WRONG[plant](monkeypatch)
    model = Net().eval()
    frozen, plain = fa.freeze(model, precision), Plain(model)
    for _ in range(2):
        for one, other in zip(frozen.input_gradient(X, Y), plain.input_gradient(X, Y), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(frozen(X), plain(X))
    assert frozen.exact
    assert [note for note in frozen.notes if "fell back" in note] == [FELL.format("gradient")]
    assert len(logged.records) == 1


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize("way", ["jacobian", "gradient"])
def test_logits_of_a_pass_with_a_gradient_are_compared_too(way, monkeypatch):
    convolved(lambda out: 0.3 * out)(monkeypatch)
    model, eye = Net().eval(), torch.eye(5).expand(24, 5, 5)
    frozen, plain = fa.freeze(model), Plain(model)
    assert not torch.equal(frozen(X), plain(X))  # in which nothing was planted
    if way == "jacobian":
        assert torch.equal(frozen.jacobian(X, eye)[1], plain.jacobian(X, eye)[1])
    else:
        assert torch.equal(frozen.input_gradient(X, Y)[2], plain.input_gradient(X, Y)[2])
    assert FELL.format("logits") in frozen.notes


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_right_stays(precision: Any, logged: Logged) -> None:
    model = Net().eval()
    frozen = fa.freeze(model, precision)
    for count in (1, 2, 5, 16, 24):
        found = frozen.input_gradient(X[:count], Y[:count])[2]
        assert apart(found, answers(model, X[:count], Y[:count])[1]) < (1e-4 if precision == "fp32" else 0.2)
    assert not logged.records
    assert not fell_back(frozen)


def test_also_where_both_copies_are_one(monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
    thinly(torch.neg)(monkeypatch)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval()
    frozen = fa.freeze(model)
    assert frozen.search.form.model is frozen.model
    assert apart(frozen.input_gradient(X, Y)[2], answers(model, X, Y)[1]) < 1e-5
    assert [record.levelname for record in logged.records] == ["WARNING"]


@pytest.mark.slow
def test_each_shape_and_dtype_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, and the gradient where one is taken; whatever the batch but a single row, and its values."""
    asked = Counter[str]()
    for name in ("same_logits", "agrees"):
        real = getattr(guard, name)
        monkeypatch.setattr(guard, name, lambda *given, n=name, f=real: (asked.update([n]), f(*given))[1])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    frozen, eye = fa.freeze(model.append(nn.Linear(32, 5)).eval()), torch.eye(5)
    for count in (24, 5, 1, 24):
        frozen.input_gradient(9 * X[:count], Y[:count])
        frozen.jacobian(X[:count], eye.expand(count, 5, 5))
    assert asked == {"same_logits": 2, "agrees": 2}
    for count in (24, 3):
        frozen(X[:count])
    assert asked == {"same_logits": 3, "agrees": 2}
    for x in (X[:, :, :7], X.double()):
        frozen.input_gradient(x, Y)
        frozen(x)
    assert asked == {"same_logits": 7, "agrees": 4}
    with torch.no_grad():
        model[0].weight.mul_(2)  # which freezes it anew
    frozen.input_gradient(X, Y)
    assert asked == {"same_logits": 8, "agrees": 5}


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


@pytest.mark.slow
@pytest.mark.parametrize("empty", ["zero gradient", "nan"])
def test_what_has_nothing_to_compare_says_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of saturated rows or such as are not finite; the next pass is compared."""
    thinly(torch.neg)(monkeypatch)
    model, frozen = Net().eval(), fa.freeze(Net().eval())

    def loss(z: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return 0 * z.sum(1) if empty == "zero gradient" else z[:, 0]

    frozen.input_gradient(X if empty == "zero gradient" else X * torch.nan, Y, loss)
    assert not fell_back(frozen)
    assert apart(frozen.input_gradient(X, Y)[2], answers(model, X, Y)[1]) < 1e-4
    assert fell_back(frozen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "mistake"),
    [("torch", True), ("python", True), ("generator", True), ("generator", False), ("python", False)],
)
def test_a_randomized_model(draw, mistake, monkeypatch, logged):
    class Noisy(Net):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, x: Tensor) -> Tensor:
            if draw == "torch":
                return super().forward(x + 0.05 * torch.randn_like(x))
            if draw == "python":
                return super().forward(x * random.uniform(0.9, 1.1))
            return super().forward(x + 0.05 * torch.randn(x.shape, generator=self.generator))

    if mistake:
        thinly(torch.neg)(monkeypatch)
    torch.manual_seed(1)
    random.seed(1)
    frozen = fa.freeze(Noisy().eval())
    states = torch.get_rng_state(), random.getstate()
    frozen.input_gradient(X, Y)
    assert fell_back(frozen) == mistake
    if draw == "generator":
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]


def test_what_a_model_draws_next_does_not_depend_on_the_comparison() -> None:
    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.05 * torch.randn_like(x))

    frozen, states = fa.freeze(Noisy().eval()), []
    frozen.check(X)
    for _ in range(2):  # only the first is compared
        torch.manual_seed(1)
        frozen.input_gradient(X, Y)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


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
    attack()
    assert fell_back(frozen)
    assert len(logged.records) == 2
    logged.records.clear()
    attack()
    assert not logged.records


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_a_right_search_is_not_denied(precision: Any, loss: Any) -> None:
    frozen = fa.freeze(Net().eval(), precision)
    y = frozen.verdict(X).argmax(1)
    fa.attacks.pgd(frozen, X, y, fa.Linf(0.05), steps=5, loss=loss)
    assert DENIED not in frozen.notes
    assert not fell_back(frozen)


@needs_onednn
@pytest.mark.slow
@pytest.mark.parametrize(("share", "eot", "denied"), [(1.9, 1, False), (2.1, 1, True), (2.1, 2, False)])
def test_losses_may_differ_twice_as_far_as_logits(share: float, eot: int, denied: bool) -> None:
    frozen = fa.freeze(Net().eval(), eot=eot)
    verdict = frozen.verdict(X)
    frozen(X)
    frozen.hold(share * allowed(verdict, [torch.float32]), verdict)
    assert (DENIED in frozen.notes) == denied


@needs_onednn
@pytest.mark.slow
def test_a_point_outside_for_which_x_stands_denies_nothing() -> None:
    frozen = fa.freeze(Net().eval())
    y = frozen.verdict(X).argmax(1)

    def outside(search: Any) -> None:
        search.gradient((search.x + 0.01).clamp(0, 1))

    out = fa.attacks.core.run(frozen, X, y, fa.Linf(0.001), outside, loss="ce")
    assert not frozen.plain
    assert torch.equal(out.x_adv, X)
    assert DENIED not in frozen.notes


def test_both_formats_set_the_bounds_and_a_gpus_rounds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `rounds_as` says, for the logits and what a search is held to."""
    model = Net().eval()
    frozen, x, y = fa.freeze(model), X[:4], torch.arange(4)
    monkeypatch.setattr(search_copy, "rounds_as", lambda format, device: f"{format} there")
    half = fa.freeze(model.double(), "bf16").search
    assert half.formats(half.form, x.device) == ["torch.float64 there", "torch.float64 there"]
    half.use_narrow()
    assert half.formats(half.form, x.device) == ["torch.float64 there", "torch.bfloat16 there"]
    model.float()
    monkeypatch.setattr(search_copy, "rounds_as", lambda format, device: "tf32")
    frozen.input_gradient(x, y)
    logits = frozen.verdict(x)
    frozen.hold(allowed(logits, ["tf32"]), logits)
    assert frozen.search.knows(x)
    frozen.hold(3 * allowed(logits, ["tf32"]), logits)
    assert not frozen.search.knows(x)


def test_rows_are_not_compared_by_another_batch() -> None:
    """The caller's logits may depend on the rest of the batch, which a few rows do not have."""

    class Centered(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = super().forward(x)
            return logits - 0.5 * logits.mean(0)

    frozen, (x, y) = fa.freeze(Centered(*convnet()).eval()), images(40)
    frozen.input_gradient(x, y)
    frozen(x)
    assert frozen.search.knows(x)
    assert not fell_back(frozen)
