"""A copy owns no weights, has its own modes, and says so where it cannot be made."""

import sys
import threading

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import Plain, freeze

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
