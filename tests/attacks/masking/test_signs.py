"""One table of nets by the sign that they raise, and nets that raise none; what it costs."""

import random
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, prepare
from fastadv.models import Binarized, bpda
from tests.attacks.contract.unchanged import unchanged
from tests.attacks.masking.nets import OwnCut, everywhere, honest
from tests.attacks.masking.test_masked_modules import HONEST
from tests.defenses import (
    AT_INPUT,
    AT_RANDOM,
    Defended,
    Detach,
    KWinners,
    MeanSparse,
    PartlyDetached,
    Pointwise,
    Quantize,
    RootAtZero,
    Temperature,
)
from tests.engine.planted import Changed
from tests.parity.models import WALL

Change = Callable[[Tensor], Tensor]
DIGITS = fa.data.load("digits", "test", limit=16).x


def net(before: nn.Module | Change | None = None, after: nn.Module | Change | None = None) -> nn.Module:
    layers = (
        layer if layer is None or isinstance(layer, nn.Module) else Pointwise(layer)
        for layer in (before, after)
    )
    before, after = layers
    return Defended(deepcopy(honest("standard")), before=before, after=after).eval()


def indicators(model: Any, x: Tensor = DIGITS) -> fa.attacks.Indicators:
    """Return what is seen at samples alone, without an attack."""
    with torch.no_grad():
        y = prepare(model).verdict(x).nan_to_num().argmax(1)
    return fa.attacks.indicators(model, x, y, fa.Linf(0.1), results={})


def turned(change: Change) -> Change:
    """Return the identity, whose gradient is changed."""
    return lambda x: Changed.apply(x, change)


def without_statistics() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(288, 10)).eval()


def sometimes_infinite() -> Any:
    calls = count()

    def model(z: Tensor) -> Tensor:
        z = z.clone()
        z[0] = torch.nan if next(calls) == 2 else z[0]
        return z

    return Plain(net(after=model))


def placed(z: Tensor) -> Tensor:
    return z * torch.where(torch.arange(len(z)) % 2 == 0, 1.0, -1.0)[:, None]


RAISED: dict[str, dict[str, Callable[[], Any]]] = {
    "randomized": {
        "torch": lambda: net(lambda x: x + 0.1 * torch.randn_like(x)),
        "python": lambda: net(lambda x: x * (1 + 0.1 * random.random())),
        "numpy": lambda: net(lambda x: x + 0.1 * torch.as_tensor(np.random.rand(*x.shape)).to(x)),
        "of a few passes": lambda: prepare(net(lambda x: x + 0.1 * torch.randn_like(x)), 3, freeze=True),
        "its gradient": lambda: net(turned(lambda grad: grad + grad.std() * torch.randn_like(grad))),
        "sometimes not finite": sometimes_infinite,
        "more than rounding": lambda: net(after=lambda z: z + 5e-3 * torch.randn_like(z)),
        **{name: lambda make=make: net(make()) for name, make in AT_RANDOM.items()},
    },
    "mixed_rows": {
        "BatchNorm without statistics": without_statistics,
        "a mean over the batch": lambda: net(after=lambda z: z - 0.5 * z.mean(0)),
        "a function": lambda: lambda x: honest("standard")(x) * (1 + x.mean() * torch.arange(10)),
        "the place in the batch": lambda: net(after=placed),
    },
    "bounded_outputs": {
        "softmax": lambda: net(after=nn.Softmax(1)),
        "bfloat16": lambda: net(after=nn.Softmax(1)).bfloat16(),
        "frozen": lambda: fa.freeze(net(after=nn.Softmax(1)), precision="bf16"),
        "sigmoid": lambda: net(after=nn.Sigmoid()),
        "tanh": lambda: net(after=nn.Tanh()),
    },
    "incorrect_gradient": {
        "no gradient": lambda: net(Detach()),
        "a function of none": lambda: net(Quantize(8)).forward,
        "the other way": lambda: net(turned(lambda grad: -grad)),
        "too short": lambda: net(turned(lambda grad: 0.5 * grad)),
        "another place": lambda: net(turned(lambda grad: grad.flip(-1))),
        "a hidden sine": lambda: net(lambda x: x + 0.03 * (800 * x).sin()),
        **{f"cut {s}": lambda s=s: net(PartlyDetached(s)) for s in (0.25, 0.5)},
        "k-winners": lambda: everywhere(lambda h: KWinners(0.1)),
        "MeanSparse": lambda: everywhere(lambda h: MeanSparse.of(h, 1.0)),
        "a quarter of the channels cut": lambda: everywhere(lambda h: PartlyDetached(0.25, 1)),
        "half of them cut in its own forward": OwnCut,
        "cut in a function": lambda: lambda x: net(PartlyDetached(0.5))(x),
        **{name: lambda make=make: net(make()) for name, make in AT_INPUT.items() if name != "nan"},
    },
    "zero_gradient": {
        "not finite": lambda: net(RootAtZero()),
        "rounding": lambda: net(Quantize(8)),
        "rounded activations": lambda: everywhere(lambda h: Quantize(4)),
        "cross-entropy underflows": lambda: net(after=Temperature(1e4)),
    },
    "unconstrained": {"rounding": lambda: net(Quantize(8)), "cut": lambda: net(Detach())},
}
QUIET: dict[str, Callable[[], Any]] = {
    "float64": lambda: net().double(),
    "bfloat16": lambda: net().bfloat16(),
    "frozen": lambda: fa.freeze(net(), precision="bf16"),
    "log probabilities": lambda: net(after=nn.LogSoftmax(1)),
    "a shift of all logits": lambda: net(after=lambda z: z + torch.randn(len(z), 1)),
    "rounding": lambda: net(after=lambda z: z + 1e-6 * torch.randn_like(z)),
    "one gradient is random": lambda: net(
        lambda x: torch.cat([turned(lambda grad: torch.randn_like(grad))(x[:1]), x[1:]])
    ),
    "kinks": lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), honest("wide")).eval(),
    "a stand-in": lambda: bpda(net(Detach()), {"before": lambda x: 0.2 * x}),
    "binarized": lambda: Binarized(honest("small"), 0.5),
}
ROWS = [(sign, name) for sign, nets in RAISED.items() for name in nets]


@pytest.mark.parametrize(("sign", "name"), ROWS, ids=[f"{sign}: {name}" for sign, name in ROWS])
def test_what_raises_a_sign(sign: str, name: str) -> None:
    torch.manual_seed(0)
    assert sign in indicators(RAISED[sign][name]()).flagged


@pytest.mark.parametrize("name", QUIET)
def test_what_raises_none(name: str) -> None:
    assert indicators(QUIET[name]()).flagged == ()


@pytest.mark.parametrize("name", [*HONEST, *WALL])
def test_honest_nets_that_hardly_change_their_class_have_their_gradient(name: str) -> None:
    side = 28 if name in WALL else 8
    x = torch.rand(8, 1, side, side, generator=torch.Generator().manual_seed(1))
    model = WALL[name].load(None) if name in WALL else HONEST[name]
    seen = indicators(model, x)
    assert not {"incorrect_gradient", "bounded_outputs", "mixed_rows"}.intersection(seen.flagged)


def test_one_sample_alone_without_a_gradient_is_no_sign() -> None:
    x = DIGITS.clone()
    x[:1] = 0
    one = indicators(net(lambda x: x * (x > 0.5).any((1, 2, 3), keepdim=True)), x)
    assert "zero_gradient" not in one.flagged


def passes(model: nn.Module) -> tuple[list[int], list[Any]]:
    """Return how many rows each pass forward and backward has, as it goes on."""
    sizes: list[int] = []

    def forward(module: nn.Module, args: Any, out: Tensor) -> None:
        sizes.append(len(out))
        if out.requires_grad:
            out.register_hook(lambda gradient: sizes.append(len(gradient)))

    return sizes, [model.register_forward_hook(forward)]


@pytest.mark.parametrize("name", ["standard", "robust"])
@pytest.mark.parametrize("samples", [40, 359])
def test_it_takes_twelve_passes_and_five_hundredths(name: str, samples: int) -> None:
    model, digits = honest(name), fa.data.load("digits", "test", limit=samples)
    counts = []
    for on in (False, True):
        sizes, hooks = passes(model)
        table = fa.evaluate(
            model, digits, partial(fa.attacks.pgd, steps=20), threat=fa.Linf(0.1), indicators=on
        )
        hooks[0].remove()
        counts.append((len(sizes), sum(sizes)))
    (calls, rows), (all_calls, all_rows) = counts
    seen = table.indicators
    assert seen is not None
    assert all_calls - calls <= 12
    assert all_rows - rows == seen.forwards + seen.backwards
    assert samples < 359 or all_rows - rows <= 0.05 * rows


@pytest.mark.parametrize("at", [0, 1, 2, 4])
def test_nothing_is_left_behind(at: int) -> None:
    """Also after an exception in some pass."""
    calls = count(1)

    def raising(x: Tensor) -> Tensor:
        torch.rand(3), random.random(), np.random.rand()
        if 0 < at <= next(calls):
            raise RuntimeError("broken")
        return x

    model, y = net(raising), torch.zeros(16, dtype=torch.long)
    with unchanged(model):
        if at:
            with pytest.raises(RuntimeError, match="broken"):
                fa.attacks.indicators(model, DIGITS, y, fa.Linf(0.1))
        else:
            fa.attacks.indicators(model, DIGITS, y, fa.Linf(0.1), results={})
