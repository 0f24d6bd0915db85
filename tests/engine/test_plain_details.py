"""What a plain call does where passes are averaged, rows depend on each other, or logits are a part of x."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, bim, fgsm, pgd
from fastadv.attacks.core.trial import TWO_ANSWERS
from fastadv.engine import Plain, Prepared
from fastadv.engine.prepare import WORTH
from tests.attacks.nets import convnet, images, labels, mlp

X = images(6, (2, 8, 8), dtype=torch.float32)
EOT = 3


def test_means_are_exact_and_counted() -> None:
    """A mean of directions is not the direction of the mean, so each pass gives its gradient."""
    model = convnet().eval()
    y, one, several = labels(model, X), Plain(model), Plain(model, EOT)
    wanted = one.input_gradient(X, y)
    for direction in (False, True):
        for found, given in zip(several.input_gradient(X, y, direction=direction), wanted, strict=True):
            torch.testing.assert_close(found, given)
    torch.testing.assert_close(several(X), one(X))
    assert (several.forwards, several.backwards) == (EOT * 18, EOT * 12)
    directions = torch.eye(4).expand(len(X), -1, -1)[:, :2]
    torch.testing.assert_close(several.jacobian(X, directions), one.jacobian(X, directions))
    assert (several.forwards, several.backwards) == (EOT * 24, EOT * 24)


def test_the_verdict_is_that_without_a_gradient() -> None:
    """A model that answers otherwise where a gradient is followed is asked twice."""

    class Turns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet().eval()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return logits.flip(1) if torch.is_grad_enabled() else logits

    model = Turns().eval()
    out = fgsm(model, X, labels(model.net, X), fa.Linf(1e-5))
    assert out.correct.all()
    assert out.forwards == 18
    assert not out.flags
    assert Plain(model).clean_pass(X) is None


def test_rows_that_depend_on_each_other_are_not_halved() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.BatchNorm2d(2, track_running_stats=False), nn.Linear(128, 3)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 3:
                raise MemoryError
            logits: Tensor = self.layer(self.norm(x).flatten(1))
            return logits

    plain, y = Plain(Mixing()), torch.zeros(6, dtype=torch.long)
    for call in (lambda: plain.verdict(X), lambda: plain.input_gradient(X, y)):
        with pytest.raises(MemoryError):
            call()


@pytest.mark.parametrize("rows", [None, torch.tensor([0, 2])])
def test_logits_of_a_pass_at_x_are_its_own(rows: Tensor | None) -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 0, 0]

    x, plain = X.clone(), Plain(Corner())
    plain.verdict(x)  # the first pass is given a copy
    made = plain.clean_pass(x)
    assert made is not None
    x.zero_()
    torch.testing.assert_close(made.logits, X[:, :, 0, 0])
    kept = slice(None) if rows is None else rows
    y = torch.zeros(6, dtype=torch.long)[kept]
    wanted = plain.input_gradient(X, y if rows is None else torch.zeros(6, dtype=torch.long), "ce")
    found = made.gradient(rows, y, "ce", None, False)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other[kept])


def test_samples_that_are_wrong_already_take_no_pass_of_their_own() -> None:
    model = convnet().eval()
    y = labels(model, X)
    y[3:] = (y[3:] + 1) % 4  # half of them: the pass at x is still worth its backward
    out = bim(model, X, y, fa.Linf(1e-5), steps=1)
    assert (out.forwards, out.backwards) == (12, 6)
    y[2] = (y[2] + 1) % 4
    out = bim(model, X, y, fa.Linf(1e-5), steps=1)
    assert (out.forwards, out.backwards) == (14, 2)


class Reuses(nn.Module):
    """Writes its answer into the same memory each time, as compiled models may."""

    answer: Tensor

    def __init__(self, room: int = 6) -> None:
        super().__init__()
        self.net, self.room, self.calls = convnet().eval(), room, 0
        self.register_buffer("answer", torch.zeros(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            raise MemoryError
        logits: Tensor = self.net(x)
        return logits if logits.requires_grad else self.answer[: len(x)].copy_(logits)


@pytest.mark.parametrize("prepared", [Plain, fa.freeze])
def test_an_answer_outlives_the_next_pass(prepared: Callable[[nn.Module], Prepared]) -> None:
    model, whole = prepared(Reuses()), Reuses().net
    for ask in (model.verdict, model):
        first = ask(X)
        ask(1 - X)
        torch.testing.assert_close(first, whole(X))
    halves = prepared(Reuses(room=3))
    for ask in (halves.verdict, halves):
        torch.testing.assert_close(ask(X), whole(X))
    first = model.confidence(X)
    model.confidence(1 - X)
    torch.testing.assert_close(first, whole(X).softmax(1))


@pytest.mark.parametrize("prepared", [Plain, fa.freeze])
def test_answers_that_are_averaged_are_several(prepared: Callable[..., Prepared]) -> None:
    class Rises(Reuses):
        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x).add_(self.calls)

    model = prepared(Rises(), eot=2)
    model(X)
    rise = (model(X) - Reuses().net(X).detach()).mean()
    assert float(rise) % 1 == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("prepared", [Plain, fa.freeze])
def test_logits_of_a_jacobian_are_its_own(prepared: Callable[[nn.Module], Prepared]) -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 0, 0]

    model, x = prepared(Corner()), X.clone()
    model.verdict(x)  # the first pass is given a copy
    logits = model.jacobian(x, torch.eye(2).expand(6, -1, -1))[0]
    x.zero_()
    torch.testing.assert_close(logits, X[:, :, 0, 0])


@pytest.mark.parametrize("prepared", [Plain, fa.freeze])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_passes_that_tell_the_dtype_of_inputs_are_counted(
    dtype: torch.dtype, prepared: Callable[[nn.Module], Prepared]
) -> None:
    rows = list[int]()

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet().eval()

        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            logits: Tensor = self.net(x)
            return logits

    model = prepared(Counts())
    for _ in range(2):
        model.verdict(X.to(dtype))
        assert model.forwards == sum(rows)


@pytest.mark.parametrize("prepared", [Plain, fa.freeze])
@pytest.mark.parametrize("hooked", [False, True])  # which is copied in another way
def test_what_a_forward_writes_into_buffers_stays_in_the_copy(
    prepared: Callable[[nn.Module], Prepared], hooked: bool
) -> None:
    class Sums(nn.Module):
        total: Tensor

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net
            self.register_buffer("total", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.total += x.detach().mean((0, 2, 3))
            logits: Tensor = self.net(x)
            return logits

    model = Sums(convnet().eval())
    if hooked:
        model.net.register_forward_hook(lambda part, given, made: made * 2)
    prepared(model).verdict(X)
    fgsm(prepared(model), X, labels(model.net, X), fa.Linf(0.1))
    assert not model.total.any()


@pytest.mark.parametrize(
    ("size", "options", "frozen"),
    [
        (WORTH // 40, {}, False),  # 40 steps are the default
        (WORTH // 40 + 1, {}, True),
        (WORTH // 32, {"steps": 8, "restarts": 4}, True),
        (WORTH // 32 - 1, {"steps": 8, "restarts": 4}, False),
    ],
)
def test_work_is_steps_by_default_times_restarts_times_samples(
    size: int, options: dict[str, int], frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    prepared = sys.modules["fastadv.engine.prepare"]
    own = prepared.frozen_by_itself  # type: ignore[attr-defined]
    monkeypatch.setattr(prepared, "frozen_by_itself", lambda *args: made.append(args) or own(*args))
    model, x = mlp(), images(size)
    pgd(model, x, labels(model, x), fa.Linf(0.5), **options)  # type: ignore[arg-type]
    assert bool(made) == frozen


class Noisy(nn.Module):
    """Counts the rows that pass."""

    def __init__(self, level: float = 0.1) -> None:
        super().__init__()
        self.net, self.level, self.rows = convnet().eval(), level, list[int]()

    def __deepcopy__(self, memo: object) -> "Noisy":
        made = Noisy(self.level)
        made.rows = self.rows
        return made

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        logits: Tensor = self.net(x)
        return logits + self.level * torch.randn_like(logits)


@pytest.mark.parametrize("attack", [fgsm, bim])
def test_all_passes_are_counted_where_a_randomized_model_gives_two_answers(
    attack: Callable[..., AttackResult],
) -> None:
    model, y = Noisy(), labels(convnet().eval(), X)
    torch.manual_seed(0)
    out = attack(model, X, y, fa.Linf(1e-5))
    assert TWO_ANSWERS in out.flags
    assert out.forwards == sum(model.rows)


def test_the_last_point_is_scored_by_the_mean_of_all_passes() -> None:
    """One verdict on a randomized model says little; those of the search are means."""
    model = Noisy(level=0.0)
    out = pgd(model, X, labels(model.net, X), fa.Linf(1e-5), steps=2, eot=EOT)
    assert not out.success.any()
    assert out.forwards == sum(model.rows) == 6 * (1 + 2 * EOT + EOT + 1)


class OfTheBatch(nn.BatchNorm2d):
    """Takes statistics of the batch in any mode, and keeps their running mean."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, training=True)


@pytest.mark.parametrize("prepared", [Plain, fa.freeze])
@pytest.mark.parametrize("hooked", [False, True])
def test_statistics_that_code_of_ones_own_writes_stay_in_the_copy(
    prepared: Callable[[nn.Module], Prepared], hooked: bool
) -> None:
    model = nn.Sequential(OfTheBatch(2), nn.Flatten(), nn.Linear(128, 3)).eval()
    if hooked:
        model[2].register_forward_hook(lambda part, given, made: made * 2)
    before = [buffer.clone() for buffer in model.buffers()]
    wanted = nn.functional.batch_norm(X, None, None, training=True).flatten(1) @ model[2].weight.T
    found = prepared(model).verdict(X)
    torch.testing.assert_close(found, (1 + hooked) * (wanted + model[2].bias))
    fgsm(prepared(model), X, found.argmax(1), fa.Linf(0.1))
    assert all(map(torch.equal, before, model.buffers()))
