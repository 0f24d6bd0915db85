"""masked_modules: each defense that hides its gradient by name, and nothing of honest networks."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.attacks import masked_modules
from tests.attacks.contract.unchanged import unchanged
from tests.defenses import (
    AT_INPUT,
    Buckets,
    Defended,
    KWinners,
    MeanSparse,
    Pointwise,
    Quantize,
)
from tests.engine.planted import Changed

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
KINDS = {"quantize": "zero", "nan": "nan"}


def net(*layers: nn.Module, channels: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *first, nn.Flatten(), nn.Linear(54, 3))


@pytest.mark.parametrize("name", AT_INPUT)
def test_a_layer_that_hides_its_gradient_is_named(name: str) -> None:
    (module,) = masked_modules(Defended(net(), before=AT_INPUT[name]()), X)
    assert (module.name, module.kind, module.share) == ("before", KINDS.get(name, "cut"), 1.0)
    advice = "give fa.models.bpda(model, {'before': 'identity'})"
    leave = "; if no_grad or detach cuts it, leave that out instead" * (module.kind == "cut")
    assert module.advice == f"{advice}{leave}"
    assert str(module).startswith("'before' ")
    assert str(module).endswith(f"at 100% of its inputs: {module.advice}")


def test_activations_that_jump_are_named_with_their_share() -> None:
    h = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    flat = ((h - h.mean(0)).abs() <= 0.3 * h.std(0)).double().mean().item()
    (sparse,) = masked_modules(nn.Sequential(MeanSparse.of(h, 0.3), nn.Linear(6, 3)), h)
    assert (sparse.name, sparse.kind) == ("0", "zero")
    assert sparse.share == pytest.approx(flat)
    (winners,) = masked_modules(nn.Sequential(KWinners(0.5), nn.Linear(6, 3)), h)
    assert (winners.name, winners.kind, winners.share) == ("0", "zero", 0.5)
    # only moves of the smaller sizes stay where it is defined
    narrow = Pointwise(lambda x: ((x * 8).round() / 8).where((x - 0.5).abs() < 0.6, torch.nan))
    assert [part.kind for part in masked_modules(net(narrow), X)] == ["zero"]


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "turned": lambda h: Changed.apply(h, lambda grad: -grad),
    "signs by content": lambda h: Changed.apply(h, lambda grad: grad * (991 * h.detach()).sin().sign()),
    "noise": lambda h: Changed.apply(h, lambda grad: grad + grad.std() * torch.randn_like(grad)),
    "a hidden sine": lambda h: h + 0.15 * (400 * h).sin(),
}


@pytest.mark.parametrize("step", WRONG.values(), ids=WRONG)
def test_a_gradient_that_misleads_is_named(step: Callable[[Tensor], Tensor]) -> None:
    (module,) = masked_modules(Defended(net(), before=Pointwise(step)), X)
    assert str(module).startswith("'before' has a misleading gradient at 100%")
    assert module.advice == "give fa.models.bpda(model, {'before': 'identity'})"
    mended = fa.models.bpda(Defended(net(), before=Pointwise(step)), {"before": "identity"})
    assert masked_modules(fa.freeze(mended), X) == ()


# calls numpy() on what may require a gradient
RAISES = Pointwise(lambda x: torch.from_numpy(1 - x.numpy()))
ADVICE: dict[str, tuple[nn.Module, str, str]] = {
    "other shape": (net(Buckets(), channels=8), "0", r"{'0': net}\)"),
    "an error": (net(RAISES), "0", r"{'0': 'identity'}\)"),
    "nested": (net(nn.Sequential(nn.Identity(), Quantize())), "0.1", r"{'0.1': 'identity'}\)"),
}


@pytest.mark.parametrize(("model", "name", "advice"), ADVICE.values(), ids=ADVICE)
def test_advice_fits_what_the_module_returns(model: nn.Module, name: str, advice: str) -> None:
    (module,) = masked_modules(model, X)
    assert module.name == name
    assert re.search(advice, module.advice)


def test_modules_around_change_no_finding() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), KWinners(0.05), nn.Conv2d(8, 8, 3), KWinners(0.05)
    model: nn.Module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 3))
    around = Defended(nn.Sequential(*model[4:]), before=nn.Sequential(nn.Sequential(nn.Sequential(*layers))))
    found, inside = (masked_modules(one, X) for one in (model, around))
    assert [(part.name, part.kind) for part in found] == [("1", "zero"), ("3", "zero")]
    assert [part.name for part in inside] == ["before.0.0.1", "before.0.0.3"]
    assert [part.share for part in inside] == [part.share for part in found]


def signs(h: Tensor) -> Tensor:
    smooth = h.clamp(-1, 1)
    return smooth + (h.sign() - smooth).detach()


class Constant(nn.Module):
    def forward(self, weight: Tensor, h: Tensor) -> Tensor:
        return h + 2 * weight.detach()


class Transformer(nn.Module):
    """Embedded places, masks of two kinds, dropout, and a feature that does not depend on x."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.places = nn.Linear(4, 16), nn.Embedding(16, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.constant, self.last = Constant(), nn.Linear(16, 3)
        self.register_buffer("mask", torch.triu(torch.full((16, 16), -torch.inf), 1))

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(F.unfold(x, 2, stride=2).transpose(1, 2)) + self.places(torch.arange(16))
        t = self.block(t, src_mask=self.mask)
        t = t + self.attention(t, t, t, attn_mask=self.mask.clamp_min(-1e30))[0]
        return self.last(self.constant(self.places.weight[0], t.mean(1)))


class Last(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, 3)

    def forward(self, states: tuple[Tensor, Any]) -> Tensor:
        return super().forward(states[0][:, -1])


class OwnNoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, h: Tensor) -> Tensor:
        return (h - 0.5 + torch.from_numpy(self.generator.normal(size=h.shape)).to(h)).relu()


HONEST: dict[str, nn.Module] = {
    "cnn": net(),
    "kinks": net(nn.Hardtanh(0.2, 0.7), nn.Softshrink(0.3), nn.ReLU6(), nn.Dropout()),
    "gamma": net(Pointwise(lambda x: (x + 1e-3).sqrt()), nn.GELU(), nn.InstanceNorm2d(1)),
    "in place": nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Linear(32, 3)),
    "straight-through": nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), Pointwise(signs), nn.Linear(32, 3)
    ),
    "transformer": Transformer(),
    "recurrent": nn.Sequential(nn.Flatten(1, 2), nn.LSTM(8, 16, batch_first=True), Last(16)),
    "float32": nn.Sequential(
        nn.Flatten(), Pointwise(lambda h: h @ torch.eye(h.shape[1])), nn.ReLU(), nn.Linear(64, 3)
    ),
    "saturated": nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Threshold(0, 0), nn.LogSoftmax(1)),
    "randomized": net(OwnNoise()),
    "frozen": Defended(net(), before=nn.Identity()),
    "a gate": net(Pointwise(lambda h: h * (h > 0.0))),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_modules_are_not_named(name: str) -> None:
    assert masked_modules(HONEST[name], X) == ()


def test_nothing_is_left_behind() -> None:
    model, x = Defended(net(), before=Quantize()).train(), X.clone()
    with unchanged(model, x):
        assert masked_modules(model, x) == masked_modules(model, x)


def test_a_value_that_is_not_finite_is_no_masked_gradient() -> None:
    infinite = Pointwise(lambda x: (x - x).log())  # minus, with a gradient that is not finite
    assert masked_modules(nn.Sequential(nn.Flatten(), infinite), torch.rand(4, 1, 4, 4)) == ()
