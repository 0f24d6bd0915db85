"""A copy owns no weights, has its own modes, and says so where it cannot be made."""

import sys
import threading

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import Plain, freeze
from fastadv.errors import InputError

pytestmark = pytest.mark.usefixtures("search_copy")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


class Writer:
    """Writes logs as SummaryWriter does: it has a lock, an event and an open file."""

    def __init__(self) -> None:
        self.lock, self.stop, self.file, self.written = threading.Lock(), threading.Event(), sys.stdout, 0

    def write(self) -> None:
        with self.lock:
            self.written += 1


class Guarded(nn.Module):
    """Holds a writer, a Python module and a generator, all of which deepcopy refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.writer, self.tools = net(), Writer(), [nn.functional, (i for i in range(3))]

    def forward(self, x: Tensor) -> Tensor:
        self.writer.write()
        return self.tools[0].relu(self.net(x))


class Refusing(nn.Linear):
    def __deepcopy__(self, memo: object) -> "Refusing":
        raise NotImplementedError("one of a kind")


class Itself(nn.Linear):
    def __deepcopy__(self, memo: object) -> "Itself":
        return self


def test_what_cannot_be_copied_is_refused_untouched() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), Refusing(6, 3))
    with pytest.raises(InputError, match=r"one of a kind.*plain function"):
        freeze(model)
    with pytest.raises(InputError, match="plain function"):
        freeze(nn.Sequential(nn.Flatten(), Itself(6, 3)))
    assert all(part.training for part in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    x = torch.rand(4, 6)
    torch.testing.assert_close(freeze(lambda x: model.eval()(x))(x), model(x))
    assert all(p.grad is None for p in model.parameters())


def test_locks_files_and_writers_are_shared() -> None:
    model, x = Guarded().train(), torch.rand(4, 6)
    frozen = freeze(model)
    before = frozen.verdict(x)
    assert model.writer.written > 0
    with torch.no_grad():
        model.net[3].weight.mul_(-2)
    assert model.training
    torch.testing.assert_close(frozen.verdict(x), model.eval()(x).detach())
    assert not torch.allclose(before, frozen.verdict(x))


def test_a_step_of_training_may_leave_activations_behind() -> None:
    """As networks do whose features a loss reads: deepcopy refuses tensors that have a graph."""
    model, x = net(), torch.rand(4, 6)
    activations = model[0](x)
    model.kept, model.others = activations, [activations, {"made": (activations,)}]
    expected = copy_of(model)(x)
    torch.testing.assert_close(freeze(model).verdict(x), expected)


def copy_of(model: nn.Module) -> nn.Module:
    """A plain net in eval mode with the same weights."""
    plain = net().eval().requires_grad_(False)
    plain.load_state_dict(model.state_dict())
    return plain


def scripted(model: nn.Module) -> nn.Module:
    script: nn.Module = torch.jit.script(model)
    return script


def traced(model: nn.Module) -> nn.Module:
    script: nn.Module = torch.jit.trace(model.eval(), torch.rand(3, 6))
    return script.train()


SCRIPTED = [scripted, traced, lambda model: Unregistered(scripted(model.eval()))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("prepared", [freeze, Plain])
@pytest.mark.parametrize("make", SCRIPTED)
def test_scripted_modules_follow_training(make, prepared):
    plain = net()
    model, x = make(plain), torch.rand(4, 6)
    frozen = prepared(model)
    before = frozen.verdict(x)
    part = getattr(model, "part", None) or getattr(model, "parts", {"part": model})["part"]
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.mul_(-1.5)
        dict(part.named_buffers())["1.running_mean"].add_(0.3)
    expected = model.eval()(x).detach()
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(frozen.verdict(x), expected)


class Unregistered(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.parts = {"part": part}

    def forward(self, x: Tensor) -> Tensor:
        return self.parts["part"](x)


class Fresh(nn.Linear):
    """Copies itself, and its weights with it."""

    def __deepcopy__(self, memo: object) -> "Fresh":
        copied = Fresh(self.in_features, self.out_features)
        copied.load_state_dict(self.state_dict())
        return copied


class Reduced(nn.Linear):
    """Copies itself into another module."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        return nn.Linear(self.in_features, self.out_features, bias=False)


def test_a_deepcopy_of_its_own() -> None:
    model, x = nn.Sequential(Fresh(6, 4), nn.ReLU(), Fresh(4, 3)), torch.rand(4, 6)
    frozen = Plain(model)
    with torch.no_grad():
        model[2].weight.mul_(2)
    torch.testing.assert_close(frozen.verdict(x), model(x).detach())
    with pytest.raises(InputError, match="same tensors"):
        freeze(nn.Sequential(Reduced(6, 3)))


class Merging(nn.Linear):
    """Adds an adapter to its weights in eval mode, and takes it away in training mode."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.extra, self.merged = nn.Parameter(torch.ones(3, 6)), False

    def train(self, mode: bool = True) -> "Merging":
        if mode == self.merged:
            self.weight.data += self.extra.data * (-1 if mode else 1)
            self.merged = not mode
        return super().train(mode)


def test_a_train_method_that_writes_weights() -> None:
    model = nn.Sequential(Merging())
    kept = model[0].weight.clone()
    with pytest.raises(InputError, match=r"call model\.eval"):
        freeze(model)
    assert torch.equal(model[0].weight, kept)
    assert model.training
    expected, x = model.eval()(torch.ones(2, 6)).detach(), torch.ones(2, 6)
    torch.testing.assert_close(freeze(model).verdict(x), expected)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("inside", [False, True])
def test_a_model_of_inference_mode(inside: bool) -> None:
    """Made there, and frozen there as well or outside."""
    with torch.inference_mode():
        model = net()
    with torch.inference_mode(inside):
        frozen = freeze(model)
    value, _, gradient = frozen.input_gradient(torch.rand(4, 6), torch.tensor([0, 1, 2, 0]))
    assert gradient.abs().sum() > 0
    assert value.isfinite().all()


def test_an_eval_of_an_instance_is_called() -> None:
    """Which leaves a defense randomized."""
    noisy, x = nn.Sequential(nn.Dropout(0.5)).train(), torch.rand(2, 64)
    noisy.eval = lambda: noisy  # type: ignore[method-assign]
    plain = Plain(noisy)
    assert not torch.equal(plain.verdict(x), plain.verdict(x))
