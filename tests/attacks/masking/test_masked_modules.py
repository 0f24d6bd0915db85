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
from fastadv.attacks.masking.masked_modules import masked_within
from fastadv.attacks.masking.probes import NAMING
from tests.attacks.contract.unchanged import unchanged
from tests.defenses import (
    AT_INPUT,
    Binarize,
    Buckets,
    Defended,
    Detach,
    KWinners,
    MeanSparse,
    Pointwise,
    Quantize,
)
from tests.engine.planted import Changed
from tests.zoo.net import module

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
KINDS = {"quantize": "zero", "nan": "nan"}


def net(*layers: nn.Module, channels: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *first, nn.Flatten(), nn.Linear(54, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_INPUT)
def test_a_layer_that_hides_its_gradient_is_named(name: str) -> None:
    (module,) = masked_modules(Defended(net(), before=AT_INPUT[name]()), X)
    assert (module.name, module.kind, module.share) == ("before", KINDS.get(name, "cut"), 1.0)
    advice, _, better = module.advice.partition("; if no_grad or detach cuts it, leave that out instead")
    assert advice == "give fa.models.bpda(model, {'before': 'identity'})"
    assert bool(better) == (module.kind == "cut")
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
    **{f"{f}": lambda h, f=f: h + 1.5 / f * (f * h).sin() for f in (30, 60, 200, 2000)},
}


@pytest.mark.slow
@pytest.mark.parametrize("step", WRONG.values(), ids=WRONG)
def test_a_gradient_that_misleads_is_named(step: Callable[[Tensor], Tensor]) -> None:
    (module,) = masked_modules(Defended(net(), before=Pointwise(step)), X)
    assert str(module).startswith("'before' has a misleading gradient at 100%")
    assert module.advice == "give fa.models.bpda(model, {'before': 'identity'})"
    assert (module,) == masked_within(fa.freeze(Defended(net(), before=Pointwise(step))), X, NAMING)
    mended = fa.models.bpda(Defended(net(), before=Pointwise(step)), {"before": "identity"})
    assert "wrong" not in [part.kind for part in masked_modules(fa.freeze(mended), X)]


class Around(nn.Module):
    def __init__(self, part: nn.Module, combine: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.part, self.combine = part, combine

    def forward(self, h: Tensor) -> Tensor:
        return self.combine(h, self.part(h))


# calls numpy() on what may require a gradient, and turns brightness round
RAISES = Pointwise(lambda x: torch.from_numpy(1 - x.numpy()))
CLASSES = nn.Sequential(nn.Flatten(), Pointwise(lambda h: h.argmax(1)), nn.Embedding(64, 3))
ADVICE: dict[str, tuple[nn.Module, str, str]] = {
    "other shape": (net(Buckets(), channels=8), "0", r"from \[8, 1, 8, 8\] to \[8, 8, 8, 8\]"),
    "other way": (net(RAISES), "0", r"{'0': net}\), with"),
    "integers": (CLASSES, "1", "wrap it in a module that returns one floating"),
    "with its part": (net(Around(nn.AvgPool2d(3, 1, 1), lambda h, part: part.detach())), "0", "'identity'"),
    "nested": (net(nn.Sequential(nn.Identity(), Quantize())), "0.1", r"{'0.1': 'identity'}"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "name", "advice"), ADVICE.values(), ids=ADVICE)
def test_advice_fits_what_the_module_returns(model: nn.Module, name: str, advice: str) -> None:
    (module,) = masked_modules(model, X)
    assert module.name == name
    assert re.search(advice, module.advice)


class Between(nn.Module):
    """Rounds in its own forward, and in a module after that, where `both`."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.net, self.hide = net(), Quantize() if both else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.hide((x * 8).round() / 8))


def test_a_step_between_modules_is_the_models_own() -> None:
    (whole,) = masked_modules(Between(False), X)
    assert (whole.name, whole.kind) == ("", "zero")
    assert str(whole).startswith("the model's own forward has a zero gradient")
    assert "put that step of its forward into a module" in whole.advice
    assert [part.name for part in masked_modules(nn.Sequential(Between(False), nn.Linear(3, 3)), X)] == ["0"]
    assert [part.name for part in masked_modules(Between(True), X)] == ["hide"]
    mended = fa.models.bpda(Between(True), {"hide": "identity"})
    assert [part.name for part in masked_modules(fa.freeze(mended), X)] == [""]


class Jpeg(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (F.avg_pool2d(x, 3, 1, 1).detach().float() * 8).round() / 8


def test_what_a_replaced_module_mixes_is_not_missed_by_the_model_around() -> None:
    model = nn.Sequential(Jpeg(), nn.Conv2d(1, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3))
    assert [part.name for part in masked_modules(model, X)] == ["0"]
    mended = fa.models.bpda(model, {"0": "identity"})
    assert masked_modules(mended, X) == masked_within(fa.freeze(mended), X, NAMING) == ()


def test_modules_around_change_no_finding() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), KWinners(0.05), nn.Conv2d(8, 8, 3), KWinners(0.05)
    model: nn.Module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 3))
    around = Defended(nn.Sequential(*model[4:]), before=nn.Sequential(nn.Sequential(nn.Sequential(*layers))))
    found, inside = (masked_within(fa.freeze(one), X, NAMING) for one in (model, around))
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
    "rounds in a part": net(Around(Quantize(), lambda h, part: h + (part - h).detach())),
    "a gate in a part": net(Around(Binarize(0.0), lambda h, part: h * part)),
    "a part for nothing": Around(Detach(), lambda x, part: x.flatten(1)[:, :3]),
}


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_part_is_blamed_for_what_the_module_around_misses(share: float) -> None:
    """A branch of a residual block: the other one has its gradient."""
    model = net(Around(Detach(), lambda h, part: (1 - share) * h + share * part))
    assert [part.name for part in masked_modules(model, X)] == [
        name for name, part in model.named_modules() if isinstance(part, Detach)
    ]


def test_nothing_is_left_behind() -> None:
    model, x = Defended(net(), before=Quantize()).train(), X.clone()
    with unchanged(model, x):
        assert masked_modules(model, x) == masked_modules(model, x)


def test_a_value_that_is_not_finite_is_no_masked_gradient() -> None:
    infinite = Pointwise(lambda x: (x - x).log())  # minus, with a gradient that is not finite
    assert masked_modules(nn.Sequential(nn.Flatten(), infinite), torch.rand(4, 1, 4, 4)) == ()


@pytest.mark.filterwarnings("error")
def test_a_module_that_follows_gradients_of_its_parts_brings_no_warning() -> None:
    def purified(self: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            error = (self.decoder(x) - x).square().sum()
            return x - 0.1 * torch.autograd.grad(error, x, create_graph=True)[0]

    purifier = module(purified, decoder=nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()))
    assert masked_modules(nn.Sequential(purifier, nn.Flatten()), X) == ()
