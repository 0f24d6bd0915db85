"""A search whose gradient is not the model's is found, named, and left: logits are right all the while."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import guard
from fastadv.engine.cpu import activations, onednn, thin, winograd
from fastadv.engine.guard import Trusted
from tests.engine.rewritten import answers
from tests.logged import Logged

needs_onednn = pytest.mark.skipif(
    not winograd.available(torch.float32), reason="torch was built without oneDNN, or fastadv unbuilt"
)


class Net(nn.Module):
    """Something for each rewrite: one channel in, ReLU and ELU, BatchNorm, wide products."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.cover = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 24, 8)
        self.hidden, self.last = nn.Linear(24, 64), nn.Linear(64, 5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.running_var.uniform_(0.2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.elu(self.cover(F.relu(self.second(x)))).flatten(1)
        logits: Tensor = self.last(F.elu(self.hidden(x)))
        return logits


X = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.arange(24) % 5


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(autouse=True)
def _small_layers_too(small_ones_too: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "LEAST_WEIGHTS", 0)


def wrong(name: str, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Plant a mistake into the backward pass of a rewrite; its forward pass stays as it is."""
    if name == "thin":
        real: Any = thin.thin_gradient
        monkeypatch.setattr(thin, "thin_gradient", lambda *given: change(real(*given)))
    elif name == "relu":
        real, calls = activations.relu_gradient, []

        def gradient(*given: Tensor) -> Tensor:
            calls.append(given)
            found: Tensor = real(*given)
            return change(found) if len(calls) % 2 else found  # one of two, since two signs are none

        monkeypatch.setattr(activations, "relu_gradient", gradient)
    elif name == "elu":
        real = activations.elu
        monkeypatch.setattr(
            activations,
            "elu",
            # in one of the two, since two signs are none
            lambda x, scale: Changed.apply(real(x, scale), change) if x.ndim == 2 else real(x, scale),
        )
    elif name == "onednn":
        back = onednn._Linear.backward

        def last(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
            found = back(ctx, gradient)[0]
            return (change(found) if gradient.shape[1] == 5 else found), None, None

        monkeypatch.setattr(onednn._Linear, "backward", staticmethod(last))
    elif name == "winograd":
        before = winograd._Convolution.backward
        monkeypatch.setattr(
            winograd._Convolution,
            "backward",
            staticmethod(lambda ctx, g: (change(before(ctx, g)[0]), None, None, None, None)),
        )
    else:
        raise AssertionError(name)


class Changed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": lambda gradient: -gradient,
    "zero": torch.zeros_like,
    "length": lambda gradient: 1.5 * gradient,
    "order": lambda gradient: gradient.flip(-1),
}


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, "sign") for name in ("thin", "relu", "elu", "onednn", "winograd")),
        *(("thin", change) for change in ("zero", "length", "order")),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_wrong_backward_is_named_and_left(
    name: str, change: str, precision: Any, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    if precision == "bf16" and (
        name == "onednn" or (name == "winograd" and not winograd.available(torch.bfloat16))
    ):
        pytest.skip("not done so in bfloat16")
    wrong(name, monkeypatch, CHANGES[change])
    model = Net().eval()
    expected = answers(model, X, Y)[1]
    frozen = fa.freeze(model, precision)
    for _ in range(2):
        found = frozen.input_gradient(X, Y)[2]
        assert apart(found, expected) < (1e-3 if precision == "fp32" else 0.2)
    assert [note for note in frozen.notes if note.startswith("not ")] == [
        f"not {name}: the gradient of the search was not that of the model"
    ]
    assert len(logged.records) == 1


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("fold", [True, False])
def test_what_is_right_stays(precision: Any, fold: bool, logged: Logged) -> None:
    model = Net().eval()
    frozen = fa.freeze(model, precision, fold=fold)
    for count in (1, 2, 5, 16, 24):
        found = frozen.input_gradient(X[:count], Y[:count])[2]
        assert apart(found, answers(model, X[:count], Y[:count])[1]) < (1e-4 if precision == "fp32" else 0.2)
    assert not logged.records
    assert not any(note.startswith("not ") for note in frozen.notes)


@pytest.mark.parametrize("fold", [True, False])
def test_also_where_both_copies_are_one(fold: bool, monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
    monkeypatch.setattr(activations, "relu_gradient", lambda gradient, out: -gradient * (out > 0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 5)).eval()
    monkeypatch.setattr(onednn, "LEAST_WEIGHTS", 1 << 30)
    frozen = fa.freeze(model, fold=fold)
    assert frozen.search.form.model is frozen.model
    assert apart(frozen.input_gradient(X, Y)[2], answers(model, X, Y)[1]) < 1e-5
    assert [record.levelname for record in logged.records] == ["WARNING"]


@pytest.mark.slow
@pytest.mark.parametrize("least", [2, 20])
def test_each_size_is_compared(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that only large batches meet, as another way through a kernel would have it."""
    wrong("thin", monkeypatch, lambda g: -g if len(g) >= least else g)
    model, frozen = Net().eval(), fa.freeze(Net().eval())
    for count in (1, 3, 5, 16, 24):
        found = frozen.input_gradient(X[:count], Y[:count])[2]
        assert apart(found, answers(model, X[:count], Y[:count])[1]) < 1e-4
        assert any(note.startswith("not thin") for note in frozen.notes) == (count >= least)


@pytest.mark.slow
@pytest.mark.parametrize("row", [0, 23])
def test_a_row_that_is_wrong(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[row % len(gradient)] *= -1
        return gradient

    wrong("thin", monkeypatch, change)
    model, frozen = Net().eval(), fa.freeze(Net().eval())
    assert apart(frozen.input_gradient(X, Y)[2], answers(model, X, Y)[1]) < 1e-4


@pytest.mark.slow
def test_it_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = guard.agrees

    def agrees(ways: guard.Ways, x: Tensor, *rest: Any) -> bool | None:
        asked.append(len(x))
        return real(ways, x, *rest)

    monkeypatch.setattr(guard, "agrees", agrees)
    frozen = fa.freeze(Net().eval())
    for count in (24, 24, 20, 5, 4, 1, 1, 24, 6):
        frozen.input_gradient(X[:count], Y[:count])
    assert asked == [24, 20, 5, 4, 1, 6]  # each number of rows


def test_what_another_thread_adds_meanwhile_disturbs_nothing() -> None:
    class Rows:
        """A batch of four; at the moment when its size is asked, another thread adds what it compared."""

        dtype, shape = X.dtype, X.shape

        def __len__(self) -> int:
            trusted.add((True, len(trusted._known)), X, X)
            return 4

    trusted = Trusted()
    trusted.add((True, "few"), X[:2], X)
    trusted.add((True, "more"), X[:4], X)
    trusted.add((False, "logits alone"), X[:6], X)
    assert trusted.knows_size(Rows())  # type: ignore[arg-type]
    assert not trusted.knows_size(X[:6])
    assert not trusted.knows_size(X[:1])


@pytest.mark.slow
def test_a_gradient_of_zero_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all rows are saturated there is nothing to compare, and the next pass is."""
    wrong("thin", monkeypatch, torch.neg)
    model, frozen = Net().eval(), fa.freeze(Net().eval())
    sure = frozen.verdict(X).argmax(1)

    def loss(z: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return 0 * z.sum(1)

    frozen.input_gradient(X, sure, loss)
    assert not any(note.startswith("not ") for note in frozen.notes)
    assert apart(frozen.input_gradient(X, Y)[2], answers(model, X, Y)[1]) < 1e-4
    assert any(note.startswith("not thin") for note in frozen.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "mistake"),
    [("torch", True), ("python", True), ("generator", True), ("generator", False), ("python", False)],
)
def test_a_randomized_model(
    draw: str, mistake: bool, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
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
        wrong("thin", monkeypatch, torch.neg)
    torch.manual_seed(1)
    random.seed(1)
    frozen = fa.freeze(Noisy().eval())
    states = torch.get_rng_state(), random.getstate()
    frozen.input_gradient(X, Y)
    assert any(note.startswith("not thin") for note in frozen.notes) == mistake
    assert not any("fell back" in note for note in frozen.notes)
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


def test_a_randomized_model_whose_search_draws_the_same_is_passed_three_times() -> None:
    """Twice to see that it draws, and once more beside the search: means would take eight passes of it."""
    x, by_logits, passes = torch.rand(16, 6), torch.rand(16, 3), {"searched": 0, "given": 0}

    def pull(name: str) -> guard.Pass:
        def pulled(at: Tensor, some: Tensor) -> Tensor:
            passes[name] += 1
            return at + torch.randn_like(at)

        return pulled

    ways = guard.Ways(searched=pull("searched"), given=pull("given"), plain=pull("given"))
    assert guard._randomized_alike(ways, x, by_logits, torch.ones(16, dtype=torch.bool), torch.float32)
    assert passes == {"searched": 1, "given": 3}


@pytest.mark.parametrize("format", [torch.float32, torch.bfloat16])
def test_zero_is_the_gradient_only_where_it_is_the_models(format: torch.dtype) -> None:
    x, by_logits, own = torch.rand(16, 6), torch.rand(16, 3), torch.rand(16, 6)
    zero, here_and_there = torch.zeros(16, 6), own.clone()
    here_and_there[3::8] = 0  # as few as may have a kink

    def answer(found: Tensor, given: Tensor) -> bool | None:
        def pull(gradient: Tensor) -> guard.Pass:
            rows = {tuple(row.tolist()): place for place, row in enumerate(by_logits)}
            return lambda x, some: gradient[[rows[tuple(row.tolist())] for row in some]]

        ways = guard.Ways(searched=pull(found), given=pull(given), plain=pull(given))
        return guard.agrees(ways, x, by_logits, found, format)

    assert answer(own, own)
    assert answer(zero, zero)
    assert not answer(zero, own)
    assert not answer(own, zero)
    if format == torch.float32:
        assert not answer(here_and_there, own)


@pytest.mark.slow
@needs_onednn
def test_mistakes_are_found_where_the_model_needs_another_rewrite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without views as reshapes a channels-last copy of this net fails, which tells nothing of views."""

    class Viewing(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.norm(self.first(x)))
            h = h.view(len(h), -1).view(len(h), 16, 8, 8)
            h = F.elu(self.cover(F.relu(self.second(h)))).flatten(1)
            logits: Tensor = self.last(F.elu(self.hidden(h)))
            return logits

    wrong("thin", monkeypatch, lambda gradient: 2 * gradient)
    wrong("onednn", monkeypatch, CHANGES["order"])
    model = Viewing().eval()
    frozen = fa.freeze(model)
    assert apart(frozen.input_gradient(X, Y)[2], answers(model, X, Y)[1]) < 1e-4
    assert [note for note in frozen.notes if note.startswith("not ")] == [
        "not thin and onednn: the gradient of the search was not that of the model"
    ]
    assert "views" in frozen.search.form.rewriting.names


def test_kinks_are_no_mistakes() -> None:
    """Where the gradient of the model itself jumps beside x, the other one is right as well."""
    x, by_logits, own, other = torch.rand(16, 6), torch.rand(16, 3), torch.rand(16, 6), torch.rand(16, 6)

    def given(at: Tensor, by_logits: Tensor) -> Tensor:
        return own if torch.equal(at, x) else other

    ways = guard.Ways(searched=given, given=given, plain=given)
    assert guard.agrees(ways, x, by_logits, other, torch.float32)


def given_beside(x: Tensor, own: Tensor, jump: Tensor) -> guard.Pass:
    """The gradient `own` of the rows of x, and off by `jump` [B, ...] anywhere else."""
    places = {tuple(row.tolist()): place for place, row in enumerate(x)}

    def pull(at: Tensor, by_logits: Tensor) -> Tensor:
        rows = by_logits[:, 0].long()  # their places, as told by the logits
        there = torch.tensor([tuple(row.tolist()) in places for row in at])
        return torch.where(there[:, None], own[rows], own[rows] + jump[rows])

    return pull


def judged(x: Tensor, own: Tensor, found: Tensor, jump: Tensor, left: Tensor | None = None) -> bool | None:
    """What the guard says of `found`, of rows that are not `left` out for logits without a derivative."""
    by_logits = torch.stack([torch.arange(len(x)), torch.ones(len(x))], 1).to(x)
    pull = given_beside(x, own, jump)

    def given(at: Tensor, some: Tensor) -> Tensor:
        return pull(at, some.nan_to_num())

    if left is not None:
        by_logits[left, 1] = torch.nan
    ways = guard.Ways(searched=lambda at, some: found, given=given, plain=given)
    return guard.agrees(ways, x, by_logits, found, x.dtype)


@pytest.mark.parametrize(("times", "fine"), [(1.9, True), (2.1, False)])
def test_a_kink_explains_twice_the_jump_of_the_model_beside_it(times: float, fine: bool) -> None:
    x, own = torch.rand(16, 6), 1 + torch.rand(16, 6)
    jump = torch.randn(16, 6) / 8
    assert judged(x, own, own + times * jump, jump) == fine


@pytest.mark.parametrize(
    ("count", "left", "off", "fine"),
    [(16, 0, 2, True), (16, 0, 3, False), (15, 0, 2, False), (32, 16, 3, False)],
)
def test_one_row_in_eight_may_have_a_kink_that_no_nudge_has_met(
    count: int, left: int, off: int, fine: bool
) -> None:
    """Of the rows that are compared, where they go much the same way."""
    x, own = torch.rand(count, 6), 1 + torch.rand(count, 6)
    found, none = own.clone(), torch.zeros(count, 6)
    found[:off] *= 1.01
    assert judged(x, own, found, none, torch.arange(count) >= count - left) == fine
    found[0] *= -1
    assert not judged(x, own, found, none)


def test_each_nudge_goes_its_own_way_for_each_row() -> None:
    """By a few roundings, and the same way whichever other rows differ."""
    x, own = torch.rand(16, 64, dtype=torch.float64), torch.rand(16, 64, dtype=torch.float64)
    x[:, 0] = 1
    ways: dict[tuple[int, int], Tensor] = {}

    def nudged(*off: int) -> None:
        calls: list[int] = []

        def given(at: Tensor, by_logits: Tensor) -> Tensor:
            rows = by_logits[:, 0].long()
            if len(rows) == len(off):
                for row, moved in zip(rows.tolist(), at - x[rows], strict=True):
                    assert torch.equal(ways.setdefault((row, len(calls)), moved), moved)
                calls.append(1)
            return own[rows]

        found, places = own.clone(), torch.arange(16.0, dtype=torch.float64)
        found[list(off)] *= -1
        guard._same(
            guard.Ways(given, given, given), x, torch.stack([places, places], 1), found, own, 1e-6, None
        )
        assert len(calls) == guard.NUDGES

    nudged(3)
    nudged(1, 3, 5)
    signs = {tuple(moved.sign().tolist()) for moved in ways.values()}
    assert len(signs) == len(ways) == 3 * guard.NUDGES
    for (_, nudge), moved in ways.items():
        step = 16 * 2 ** (nudge % 4) * torch.finfo(torch.float64).eps
        # drawn evenly from -1/2 to 1/2 of it, and rounded as x is
        assert 0.4 < float(moved.abs().max()) / step < 0.55
        assert abs(float(moved.mean())) < step / 8
