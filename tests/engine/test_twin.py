"""The twin owns no weights, has its own modes, and says so where it cannot be made."""

import threading

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import freeze
from fastadv.engine.twin import dtype_of, twin
from fastadv.errors import InputError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def test_shares_storage_and_nothing_else() -> None:
    model = net().train()
    copied = twin(model)
    for theirs, own in zip(model.parameters(), copied.parameters(), strict=True):
        assert own.data_ptr() == theirs.data_ptr()
        assert own is not theirs
        assert theirs.requires_grad
        assert not own.requires_grad
        assert own.grad is None
    for theirs_buffer, own_buffer in zip(model.buffers(), copied.buffers(), strict=True):
        assert own_buffer.data_ptr() == theirs_buffer.data_ptr()
    assert all(part.training for part in model.modules())
    assert not any(part.training for part in copied.modules())


def test_follows_training() -> None:
    model, x = net(), torch.rand(7, 6)
    frozen = freeze(model, fold=False)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model(x).sum().backward()
    optimiser.step()
    torch.testing.assert_close(frozen(x), model.eval()(x))
    assert frozen.exact


def test_buffers_that_forward_writes() -> None:
    class Tally(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

    model = nn.Sequential(net(), Tally()).eval()
    freeze(model)(torch.rand(3, 6))
    assert model[1].calls == 0
    freeze(model, fold=False)(torch.rand(3, 6))
    assert model[1].calls == 1


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    copied = twin(model)
    assert copied[1].weight is copied[0].weight


@pytest.mark.parametrize(
    "norm",
    [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reparametrised_layers(norm: object) -> None:
    model = nn.Sequential(norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 3))  # type: ignore[operator]
    x = torch.rand(5, 6)
    model(x).sum().backward()
    expected = model.eval()(x)
    torch.testing.assert_close(freeze(model).verdict(x), expected)


class Guarded(nn.Module):
    """Holds a lock, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.lock = net(), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            logits: Tensor = self.net(x)
        return logits


class Itself(nn.Linear):
    def __deepcopy__(self, memo: object) -> "Itself":
        return self


def test_what_cannot_be_copied_is_refused_untouched() -> None:
    model = Guarded().train()
    with pytest.raises(InputError, match="plain function"):
        freeze(model)
    with pytest.raises(InputError, match="plain function"):
        freeze(nn.Sequential(nn.Flatten(), Itself(6, 3)))
    assert all(part.training for part in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    x = torch.rand(4, 6)
    torch.testing.assert_close(freeze(lambda x: model.eval()(x))(x), model(x))
    assert all(p.grad is None for p in model.parameters())


def test_lazy_modules_are_refused() -> None:
    with pytest.raises(InputError, match="run the model once"):
        freeze(nn.Sequential(nn.LazyLinear(3)))


def test_wrappers_are_opened() -> None:
    model, x = net().eval(), torch.rand(4, 6)
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        torch.testing.assert_close(freeze(wrapped).verdict(x), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_modules() -> None:
    model, x = torch.jit.script(net().eval()), torch.rand(4, 6)
    gradient = freeze(model).input_gradient(x, torch.tensor([0, 1, 2, 0]))[2]
    assert gradient.abs().sum() > 0
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = net()
    value, _, gradient = freeze(model).input_gradient(torch.rand(4, 6), torch.tensor([0, 1, 2, 0]))
    assert gradient.abs().sum() > 0
    assert value.isfinite().all()


def test_dtype() -> None:
    assert dtype_of(net().bfloat16()) == torch.bfloat16
    assert dtype_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())) is None
    assert dtype_of(nn.ReLU()) is None
