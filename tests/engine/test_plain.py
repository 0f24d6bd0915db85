"""A plain call searches the model as given: nothing is copied, compared, timed, cached or set."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastadv as fa
from fastadv.attacks import bim, fgsm, pgd
from fastadv.engine import Frozen, Plain, Prepared, prepare
from fastadv.engine.mapped import Mapped
from fastadv.engine.prepare import WORTH
from fastadv.errors import InputError
from tests.attacks.nets import Noisy, convnet, images, labels, mlp
from tests.refusals import refuses
from tests.zoo.net import module

X = images(6, (2, 8, 8), dtype=torch.float32)
Y = torch.zeros(6, dtype=torch.long)
EOT = 3
by_either = pytest.mark.parametrize("prepared", [Plain, fa.freeze])


def around(run: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    return module(lambda self, x: run(self.net, x), net=convnet()).eval()


class Corner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0]


rows: list[int] = []


def counted(net: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: rows.append(len(x)) or net(x)  # type: ignore[func-returns-value]


@pytest.fixture(autouse=True)
def forgotten() -> None:
    rows.clear()


def test_the_fewest_passes() -> None:
    """FGSM passes twice; ten steps of PGD pass thirteen times, and twelve from x itself."""
    model = around(lambda net, x: counted(net)(x))
    y, inside = labels(model.net, X), fa.Linf(1e-5)
    out = fgsm(model, X, y, inside)
    assert rows == [6, 6]
    assert (out.forwards, out.backwards) == (12, 6)
    for attack, passes in ((pgd, 13), (bim, 12)):
        rows.clear()
        out = attack(model, X, y, inside, steps=10)
        assert rows == [6] * passes
        assert (out.forwards, out.backwards) == (sum(rows), 60)
        assert not out.success.any()


@pytest.fixture
def frozen_calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    frozen_calls: list[object] = []
    prepared = sys.modules["fastadv.engine.prepare"]
    real = prepared.gains  # type: ignore[attr-defined]

    def gains(*args: object) -> bool:
        frozen: bool = real(*args)
        frozen_calls.extend([args] * frozen)
        return frozen

    monkeypatch.setattr(prepared, "gains", gains)
    return frozen_calls


@pytest.mark.slow
def test_long_work_is_frozen_by_itself(frozen_calls: list[object]) -> None:
    model, x = nn.Sequential(mlp(), nn.BatchNorm1d(3)).double().eval(), images(64)
    y, steps = labels(model, x), WORTH // 64
    pgd(model, x, y, fa.Linf(1e-6), steps=steps - 1)
    assert not frozen_calls
    pgd(model, x, y, fa.Linf(1e-6), steps=steps, freeze=False)
    pgd(Plain(model), x, y, fa.Linf(1e-6), steps=steps)
    pgd(lambda z: model(z), x, y, fa.Linf(1e-6), steps=steps)  # of which nothing is known
    pgd(model[0], x, y, fa.Linf(1e-6), steps=steps)  # linear layers gain nothing
    assert not frozen_calls
    for run, frozen in (
        ({"steps": steps}, True), ({"steps": steps // 4, "restarts": 4}, True),
        ({"steps": steps // 4 - 1, "restarts": 4}, False), ({}, False),
    ):  # fmt: skip
        frozen_calls.clear()
        pgd(model, x, y, fa.Linf(0.5), **run)  # type: ignore[arg-type]
        assert bool(frozen_calls) == frozen
    assert prepare(model, work=WORTH).options.precision == "fp32"  # type: ignore[attr-defined]
    frozen = fa.freeze(model)
    assert prepare(frozen, work=WORTH) is frozen
    assert isinstance(prepare(model[0], freeze=True), Frozen)
    with pytest.raises(InputError, match="freeze: expected True or False"):
        pgd(model, x, y, fa.Linf(0.1), steps=1, freeze="yes")  # type: ignore[arg-type]


class LateRoom(torch.autograd.Function):
    """Leaves x as it is; its backward has memory for two rows."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        if len(gradient) > 2:
            raise MemoryError
        return gradient


@pytest.mark.parametrize("already", [0, 2])
def test_memory_may_run_out_in_the_backward_pass_from_x(already: int) -> None:
    """The pass that gave the clean verdict cannot give the gradient; parts of it do."""

    model = around(lambda net, x: net(LateRoom.apply(x)))
    y = labels(model.net, X)
    y[:already] = (y[:already] + 1) % 4
    for attack in (fgsm, bim):
        out, wanted = attack(model, X, y, fa.Linf(0.02)), attack(model.net, X, y, fa.Linf(0.02))
        torch.testing.assert_close(out.x_adv, wanted.x_adv)
        assert torch.equal(out.status, wanted.status)
    with pytest.raises(MemoryError):  # it may hold a value for each sample of the batch
        fgsm(model, X, y, fa.Linf(0.02), loss=lambda logits, y, targets: -logits[:, 0])


def test_gradients_at_x_in_half_precision_are_those_that_the_model_has() -> None:
    model, x = around(lambda net, x: net(x * 1e-8)), X.half()
    out = fgsm(model, x, labels(model, X), fa.Linf(0.1))
    assert not out.zero_gradient.any()
    assert (out.x_adv != x).double().mean() > 0.9


def test_a_reentrant_checkpoint_is_refused_with_its_cure() -> None:
    model = around(lambda net, x: checkpoint(net, x, use_reentrant=True))
    with pytest.raises(fa.InputError, match="use_reentrant=False"):
        fgsm(model, X, labels(model.net, X), fa.Linf(0.1))


@by_either
def test_logits_are_followed_to_x_alone_and_passes_counted(prepared: Any) -> None:
    model, by = around(lambda net, x: checkpoint(net, x, use_reentrant=False)), torch.arange(24.0).view(6, 4)
    x, wanted = X.double().requires_grad_(), X.double().requires_grad_()
    (model.net(wanted.float()) * by).sum().backward()
    model.zero_grad()
    made = prepare(prepared(model.train()), EOT)
    torch.testing.assert_close(made(x), made.verdict(X))
    before = made.forwards
    first, second = made(x), made(x)
    assert (made.forwards - before, made.backwards) == (2 * EOT * 6, 0)
    for logits in (first, first, second):
        x.grad = None
        with torch.autocast("cpu"):
            (logits * by).sum().backward(retain_graph=True)
        torch.testing.assert_close(x.grad, wanted.grad, rtol=1e-4, atol=1e-5)
    assert (made.backwards, model.net.training) == (3 * EOT * 6, True)
    assert all(weight.grad is None for weight in model.parameters())
    assert not made(X).requires_grad


def test_samples_that_are_wrong_already_take_no_pass_of_their_own() -> None:
    model = convnet().eval()
    y = labels(model, X)
    y[3:] = (y[3:] + 1) % 4  # half of them: the pass at x is still worth its backward
    out = bim(model, X, y, fa.Linf(1e-5), steps=1)
    assert (out.forwards, out.backwards) == (12 + 3, 6)
    y[2] = (y[2] + 1) % 4
    out = bim(model, X, y, fa.Linf(1e-5), steps=1)
    assert (out.forwards, out.backwards) == (12 + 2 + 2, 2)


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


@by_either
def test_an_answer_outlives_the_next_pass(prepared: Callable[..., Prepared], search_copy: None) -> None:
    model, whole = prepared(Reuses()), Reuses().net
    for ask in (model.verdict, model):
        first = ask(X)
        ask(1 - X)
        torch.testing.assert_close(first, whole(X))
    halves = prepared(Reuses(room=3))
    for ask in (halves.verdict, halves):
        torch.testing.assert_close(ask(X), whole(X))


@by_either
def test_logits_with_a_gradient_are_their_own(prepared: Callable[[nn.Module], Prepared]) -> None:
    model, x = prepared(Corner()), X.clone()
    model.verdict(x)  # the first pass is given a copy
    answers = [model.jacobian(x, torch.eye(2).expand(6, -1, -1))[0], model.input_gradient(x, Y)[1]]
    answers += [clean.logits for clean in [model.clean_pass(x)] if clean is not None]
    x.zero_()
    for logits in answers:
        torch.testing.assert_close(logits, X[:, :, 0, 0])


@by_either
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_passes_that_tell_the_dtype_of_inputs_are_counted(dtype, prepared):
    model = prepared(around(lambda net, x: counted(net)(x)))
    for _ in range(2):
        model.verdict(X.to(dtype))
        assert model.forwards == sum(rows)


def noisy(level: float) -> Noisy:
    return Noisy(level, lambda count: rows.append(count), convnet().eval())


@pytest.mark.parametrize("attack", [fgsm, bim])
def test_all_passes_are_counted_where_a_randomized_model_gives_two_answers(attack):
    model, y = noisy(0.1), labels(convnet().eval(), X)
    out = attack(model, X, y, fa.Linf(1e-5))
    assert out.flags[0].startswith("denied: ")
    assert out.forwards == sum(rows)


@pytest.mark.parametrize("given", [lambda model: model, Plain, fa.freeze])
def test_the_last_point_is_scored_by_the_mean_of_all_passes(given: Callable[[Any], Any]) -> None:
    """One verdict on a randomized model says little; those of the search are means."""
    model = noisy(0.0)
    out = pgd(given(model), X, labels(model.net, X), fa.Linf(1e-5), steps=2, eot=EOT)
    assert not out.success.any()
    assert out.forwards == sum(rows) == 6 * (2 + 2 * EOT + EOT + 1)  # a second look at x


def test_logits_that_lie_in_x_stay_when_points_move() -> None:
    points, y = torch.rand(6, 3), torch.arange(6) % 3
    plain = Plain(lambda x: x[:, :3])
    plain.input_gradient(points, y)
    ask = plain.bind(points, y, "ce", None)
    assert ask is not None
    for _ in range(3):
        wanted = points.clone()
        logits = ask(points)[1]
        points.add_(1)
        assert torch.equal(logits, wanted)


def test_a_map_is_never_asked_about_other_rows() -> None:
    """Points of some samples need their rows; of parameters of others there are none."""
    light = fa.Through(lambda x, t: (x + t.view(-1, 1, 1, 1)).clamp(0, 1), fa.Linf(0.3, box=(-1, 1)),
                       still=lambda x: x.new_zeros(len(x), 1))  # fmt: skip
    plain, numbers, rows = Plain(convnet()), torch.tensor([3, 70, 41]), torch.tensor([1, 2, 1, 0])
    mapped, t = Mapped(plain, light, X[:3], numbers), torch.rand(4, 1)
    torch.testing.assert_close(mapped(t, rows), plain(light.image(t, X[rows])))
    part = mapped.of(t[:2], numbers[1:])
    torch.testing.assert_close(part(t[:2]), plain(light.image(t[:2], X[1:3])))
    for points, some in ((t, None), (t, rows[:3]), (t[:2], None)):
        refuses("rows: expected one for each of", mapped, points, some)
    refuses("ids: expected some of the batch", mapped.of, t[:2], torch.tensor([3, 4]))


def test_a_map_is_asked_with_the_passes_of_a_call() -> None:
    own = fa.Through(lambda x, t: t, fa.Linf(0.1), still=torch.clone)
    mapped = Mapped(Plain(convnet()), own, X, torch.arange(6))
    assert prepare(mapped) is mapped
    assert prepare(mapped, EOT).eot == EOT


MANY: dict[str, Callable[[Plain, Tensor], object]] = {
    "verdicts": lambda plain, y: [plain.verdict(X.clone()) for _ in range(9)],
    "steps": lambda plain, y: bim(plain, X, y, fa.Linf(1e-5), steps=9, stop_early=False),
}


@pytest.mark.parametrize("many", MANY)
def test_a_model_that_writes_into_x_only_later_is_refused(many: str) -> None:
    """In its first pass, of a copy, it would have been given copies from then on."""
    model, calls = convnet().eval(), list[int]()

    def halves(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) == 5:
            with torch.no_grad():
                x.mul_(0.5)
        return model(x)

    with pytest.raises(InputError, match="writes into it"):
        MANY[many](Plain(halves), labels(model, X))


class Towers(nn.Linear):
    def forward(self, x: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x.flatten(1))


def test_a_model_that_needs_more_than_images_is_refused() -> None:
    for call in (
        lambda: bim(Towers(128, 4), X, Y, fa.Linf(0.1)),
        lambda: fa.evaluate(Towers(128, 4), (X, Y)),
    ):
        with pytest.raises(InputError, match=r"images alone, .* argument: 'text'; hold the rest in a torch"):
            call()


class OfTheBatch(nn.BatchNorm2d):
    """Takes statistics of the batch in any mode, and keeps their running mean."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, training=True)


@by_either
def test_a_forward_takes_statistics_of_the_batch_in_any_mode(prepared, search_copy):
    model = nn.Sequential(OfTheBatch(2), nn.Flatten(), nn.Linear(128, 3)).eval()
    wanted = nn.functional.batch_norm(X, None, None, training=True).flatten(1) @ model[2].weight.T
    logits = prepared(model).verdict(X)
    torch.testing.assert_close(logits, wanted + model[2].bias)
    assert model[0].running_mean.any()  # what it writes it writes


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_autocast_around_changes_nothing(dtype: torch.dtype) -> None:
    model, x = mlp(dtype=torch.float32), images(6, dtype=dtype)
    y = labels(model, x.float())
    for attack, threat in ((pgd, fa.Linf(0.1)), (pgd, fa.L2(0.3)), (fgsm, fa.L1(1.0))):
        wanted = attack(model, x, y, threat)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(attack(model, x, y, threat).x_adv, wanted.x_adv)
