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
from fastadv.engine import Frozen, Plain, prepare
from fastadv.engine.prepare import WORTH
from fastadv.errors import InputError, NoGradientError
from tests.attacks.nets import convnet, images, labels, mlp

X = images(6, (2, 8, 8), dtype=torch.float32)


class Seen(nn.Module):
    """Counts the rows that pass, with a gradient and without, and the frames between `pgd` and it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.passes = net, rows

    def forward(self, x: Tensor) -> Tensor:
        rows.append(len(x))
        frame, names = sys._getframe(1), list[str]()
        while frame is not None and frame.f_code.co_name != "pgd":
            names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        # torch's own two frames of a module's call are not ours
        depths.append(len([name for name in names if not name.endswith("_call_impl")]) + 1)
        logits: Tensor = self.net(x)
        return logits


rows: list[int] = []
depths: list[int] = []


@pytest.fixture(autouse=True)
def forgotten() -> None:
    rows.clear()
    depths.clear()


def test_the_fewest_passes() -> None:
    """FGSM passes twice; ten steps of PGD pass twelve times, and eleven from x itself."""
    model = Seen(convnet().eval())
    y, inside = labels(model.net, X), fa.Linf(1e-5)
    out = fgsm(model, X, y, inside)
    assert rows == [6, 6]
    assert (out.forwards, out.backwards) == (12, 6)
    for attack, passes in ((pgd, 12), (bim, 11)):
        rows.clear()
        out = attack(model, X, y, inside, steps=10)
        assert rows == [6] * passes
        assert (out.forwards, out.backwards) == (6 * passes, 60)
        assert not out.success.any()


def test_few_frames_lie_between_an_attack_and_the_model() -> None:
    model = Seen(convnet().eval())
    pgd(model, X, labels(model.net, X), fa.Linf(1e-5), steps=3)
    assert max(depths) <= 11


def test_a_plain_call_does_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **more: Any) -> Any:
        raise AssertionError("a plain call froze, timed or set something")

    for name in ("_freeze", "keep_pages"):
        monkeypatch.setattr(sys.modules["fastadv.engine.freeze"], name, never)
    model = convnet().eval()
    plain = Plain(model)
    own = dict(plain.model.named_parameters())
    assert all(own[name].data_ptr() == weight.data_ptr() for name, weight in model.named_parameters())
    y = labels(model, X)
    assert pgd(model, X, y, fa.Linf(0.1), steps=5).forwards
    with pytest.raises(AssertionError, match="froze"):
        pgd(model, X, y, fa.Linf(0.1), steps=5, freeze=True)


def test_long_work_is_frozen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    prepared = sys.modules["fastadv.engine.prepare"]
    own = prepared.frozen_by_itself  # type: ignore[attr-defined]
    monkeypatch.setattr(prepared, "frozen_by_itself", lambda *args: made.append(args) or own(*args))
    model, x = mlp(), images(64)
    y, steps = labels(model, x), WORTH // 64
    pgd(model, x, y, fa.Linf(1e-6), steps=steps - 1)
    assert not made
    pgd(model, x, y, fa.Linf(1e-6), steps=steps, freeze=False)
    pgd(Plain(model), x, y, fa.Linf(1e-6), steps=steps)
    pgd(lambda z: model(z), x, y, fa.Linf(1e-6), steps=steps)  # of which nothing is known
    assert not made
    pgd(model, x, y, fa.Linf(1e-6), steps=steps)
    assert len(made) == 1
    assert prepare(model, work=WORTH).options.precision == "fp32"  # type: ignore[attr-defined]
    frozen = fa.freeze(model)
    assert prepare(frozen, work=WORTH) is frozen
    with pytest.raises(InputError, match="freeze: expected True or False"):
        pgd(model, x, y, fa.Linf(0.1), steps=1, freeze="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("train", [False, True])
def test_the_answers_are_the_models(train: bool) -> None:
    model = convnet().train(train)
    y = labels(model, X)
    model.train(train)
    statistics = [buffer.clone() for buffer in model.buffers()]
    plain = Plain(model)
    value, logits, gradient = plain.input_gradient(X, y)
    assert all(map(torch.equal, statistics, model.buffers()))
    assert model.training is train
    leaf = X.clone().requires_grad_()
    own = model.eval()(leaf)
    nn.functional.cross_entropy(own, y, reduction="sum").backward()
    assert leaf.grad is not None
    torch.testing.assert_close(gradient, leaf.grad)
    torch.testing.assert_close(logits, own.detach())
    torch.testing.assert_close(value, nn.functional.cross_entropy(own.detach(), y, reduction="none"))
    torch.testing.assert_close(plain.verdict(X), own.detach())
    directions = torch.eye(own.shape[1]).expand(len(X), -1, -1)[:, :2]
    torch.testing.assert_close(
        plain.jacobian(X, directions)[1], fa.freeze(model).jacobian(X, directions)[1], rtol=1e-4, atol=1e-6
    )


def test_a_change_of_the_model_is_seen_at_once() -> None:
    model = convnet().eval()
    y = labels(model, X)
    before = pgd(model, X, y, fa.Linf(0.05), steps=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.data.mul_(-1)
    after = pgd(model, X, y, fa.Linf(0.05), steps=2)
    assert not torch.equal(before.correct, after.correct)


def test_a_batch_that_does_not_fit_passes_in_halves() -> None:
    class Small(nn.Module):
        """Has memory for two rows."""

        def __init__(self) -> None:
            super().__init__()
            self.net = convnet().eval()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                raise MemoryError
            logits: Tensor = self.net(x)
            return logits

    model = Small()
    y = labels(model.net, X)
    small, whole = Plain(model), Plain(model.net)
    for found, wanted in zip(small.input_gradient(X, y), whole.input_gradient(X, y), strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(small.verdict(X), whole.verdict(X))
    assert (small.forwards, small.backwards) == (12, 6)
    for attack in (fgsm, pgd, bim):
        out, wanted = attack(model, X, y, fa.Linf(0.1)), attack(model.net, X, y, fa.Linf(0.1))
        assert torch.equal(out.success, wanted.success)


@pytest.mark.parametrize("prepared", [Plain, fa.freeze])
def test_models_that_are_refused(prepared: Callable[..., object]) -> None:
    for model in (3, nn.Linear):
        with pytest.raises(InputError, match="model: expected"):
            prepared(model)
    with pytest.raises(InputError, match="lazy"):
        prepared(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))


def test_a_model_without_a_gradient() -> None:
    with pytest.raises(NoGradientError):
        Plain(lambda x: x.detach().flatten(1)).input_gradient(X, torch.zeros(6, dtype=torch.long))


def test_means_over_passes() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] + torch.randn(3)

    torch.manual_seed(0)
    plain, y = Plain(Noisy(), 400), torch.zeros(6, dtype=torch.long)
    _, logits, _ = plain.input_gradient(X, y)
    assert (logits - X.flatten(1)[:, :3]).abs().max() < 0.3
    assert (plain(X) - X.flatten(1)[:, :3]).abs().max() < 0.3
    assert plain.forwards == 2 * 400 * 6
    assert not plain.exact
    assert isinstance(prepare(fa.freeze(mlp()), 3), Frozen)
    assert prepare(plain, 2).eot == 2


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

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet().eval()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(LateRoom.apply(x))
            return logits

    model = Small()
    y = labels(model.net, X)
    y[:already] = (y[:already] + 1) % 4
    for attack in (fgsm, bim):
        out, wanted = attack(model, X, y, fa.Linf(0.02)), attack(model.net, X, y, fa.Linf(0.02))
        torch.testing.assert_close(out.x_adv, wanted.x_adv)
        assert torch.equal(out.status, wanted.status)
    with pytest.raises(MemoryError):  # it may hold a value for each sample of the batch
        fgsm(model, X, y, fa.Linf(0.02), loss=lambda logits, y, targets: -logits[:, 0])


def test_gradients_at_x_in_half_precision_are_those_that_the_model_has() -> None:
    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet().eval()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x * 1e-8)
            return logits

    model, x = Faint(), X.half()
    out = fgsm(model, x, labels(model, X), fa.Linf(0.1))
    assert not out.zero_gradient.any()
    assert (out.x_adv != x).double().mean() > 0.9


def test_a_pass_that_a_checkpoint_demands_again_is_counted() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet().eval()

        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            logits: Tensor = checkpoint(self.net, x, use_reentrant=True)
            return logits

    plain, y = Plain(Checkpointed()), labels(convnet().eval(), X)
    for _ in range(2):
        plain.input_gradient(X, y)
        assert plain.forwards == sum(rows)
    assert rows == [6, 6, 6]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_an_autocast_around_changes_nothing(dtype: torch.dtype) -> None:
    model, x = mlp(dtype=torch.float32), images(6, dtype=dtype)
    y = labels(model, x.float())
    for attack, threat in ((pgd, fa.Linf(0.1)), (pgd, fa.L2(0.3)), (fgsm, fa.L1(1.0))):
        wanted = attack(model, x, y, threat)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(attack(model, x, y, threat).x_adv, wanted.x_adv)
