"""Samples whose steps come back to a point leave, with the result of the run to the end."""

from collections.abc import Callable
from itertools import cycle, product
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, Status
from fastadv.attacks.methods import ascent
from tests.attacks.nets import convnet, images, labels, mlp

COUNT, SHAPE = 8, (2, 8, 8)
PARTS = "x_adv", "success", "status", "loss", "distance", "zero_gradient", "unfinished"


class Alone(nn.Module):
    """A net that sees each row by itself, so that no sum is rounded by the size of the batch."""

    calls = size = 0

    def __init__(
        self, net: nn.Module, levels: int = 0, odd: Any = lambda model, x: 0, hole: float = 2
    ) -> None:
        super().__init__()
        self.net, self.levels, self.odd, self.hole = net, levels, odd, hole

    def forward(self, x: Tensor) -> Tensor:
        if self.levels:
            steps = (x * abs(self.levels)).round() / abs(self.levels)
            x = x + (steps - x).detach() if self.levels > 0 else steps
        logits = torch.cat([self.net(row[None].clone()) for row in x]) + self.odd(self, x)
        return logits.where(x.flatten(1)[:, :1] < self.hole, nan)


NETS = {
    "mlp": lambda: Alone(mlp(4, 128)),
    "cnn": lambda: Alone(convnet().double()),
    "levels": lambda: Alone(mlp(4, 128), levels=8),  # many points have the same logits
    "flat": lambda: Alone(mlp(4, 128), levels=-8),
}
DTYPES = torch.float32, torch.bfloat16, torch.float64, torch.float32
BALLS = {"linf": fa.Linf(0.02), "l2": fa.L2(0.2), "l1": fa.L1(1.2)}


def both(patch: pytest.MonkeyPatch, run: Callable[[], AttackResult]) -> tuple[AttackResult, AttackResult]:
    """The result with samples that leave, and that of the run to the end, equal to the bit."""
    short = run()
    with patch.context() as patched:
        patched.setattr(ascent, "may_return", lambda search, moves: False)
        long = run()
    for name in PARTS:
        values = getattr(short, name), getattr(long, name)
        torch.testing.assert_close(*values, rtol=0, atol=0, equal_nan=True, msg=name)
    assert not long.cycled.any()
    return short, long


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "norm", "dtype"), [(*pair, dtype) for pair, dtype in zip(product(NETS, BALLS), cycle(DTYPES))]
)
def test_results_are_those_of_the_run_to_the_end(
    net: str, norm: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, threat = NETS[net]().eval().to(dtype), images(COUNT, SHAPE, dtype=dtype), BALLS[norm]
    y, size = labels(model, x), threat.radius / 4
    short, long = both(monkeypatch, lambda: fa.attacks.pgd(model, x, y, threat, steps=60, step_size=size))
    if norm != "l2" or net == "flat":  # steps along gradients of any length seldom come back
        assert short.cycled.any()
        assert short.backwards < 0.7 * long.backwards


OPTIONS: dict[str, dict[str, Any]] = {
    "restarts": {"steps": 100, "step_size": 0.03, "restarts": 2},
    "not early": {"stop_early": False, "loss": "margin"},
    "targets": {"targets": torch.arange(COUNT) % 2 + 1},  # added to y
    "sizes": {"step_size": torch.linspace(0.002, 0.04, COUNT), "random_start": False},
}


@pytest.mark.slow
@pytest.mark.usefixtures("search_copy")
@pytest.mark.parametrize("freeze", [lambda model: model, fa.freeze], ids=["plain", "frozen"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_that_result(name: str, freeze: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, options = Alone(mlp()), images(COUNT), {"steps": 60, "step_size": 0.02, **OPTIONS[name]}
    y, asked = labels(model, x), freeze(model)
    if name == "targets":
        options["targets"] = (y + options["targets"]) % 3
    short, long = both(monkeypatch, lambda: fa.attacks.pgd(asked, x, y, fa.Linf(0.09), **options))
    assert short.backwards < long.backwards
    assert f"{int(short.cycled.sum())} left in a cycle" in repr(short)
    assert "cycle" not in repr(long)


def test_a_sample_leaves_once_its_point_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 0, 1/8, 1/4, 3/8, 1/4, 3/8, 1/4: the point after six steps is that after four."""
    top, x, y = nn.Linear(1, 2), torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)
    peak = Alone(top, odd=lambda model, x: torch.cat([0 * x + 99, -99 * (x - 0.3) ** 2], 1))
    nn.init.zeros_(top.weight)
    run = lambda: fa.attacks.bim(peak, x, y, fa.Linf(1.0), steps=64, step_size=1 / 8)  # noqa: E731
    short, long = both(monkeypatch, run)
    assert (short.backwards, long.backwards, short.x_adv.item()) == (6 + 6, 64, 0.25)  # six to see the model


def test_samples_that_go_on_by_an_earlier_answer_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(COUNT)
    x[:, 0, 0, 0] = torch.linspace(0.3, 0.54, COUNT, dtype=x.dtype)
    model, y = Alone(mlp(), hole=0.55), labels(Alone(mlp()), x)
    short, _ = both(monkeypatch, lambda: fa.attacks.pgd(model, x, y, fa.Linf(0.08), steps=60, step_size=0.02))
    assert (short.status == Status.FAILED).any()
    assert short.cycled.any()
    assert not (short.cycled & (short.status == Status.FAILED)).any()


def beside(x: Tensor, mates: Tensor) -> Tensor:
    """What a model adds to the logits of each row that sees a value of a mate."""
    return 1e-3 * mates.flatten(1)[:, :1] * torch.arange(3)


ODD: dict[str, Callable[[Any, Tensor], Any]] = {
    "draws": lambda model, x: 1e-12 * torch.rand(len(x), 1),
    "writes": lambda model, x: setattr(model, "calls", model.calls + 1) or 0,
    "mixes rows": lambda model, x: 1e-3 * x.mean(),
    "sees the row before": lambda model, x: beside(x, torch.cat([0 * x[:1], x[:-1]])),
    "sees neighbors": lambda model, x: beside(x, x[[min(row ^ 1, len(x) - 1) for row in range(len(x))]]),
    "mixes gradients": lambda model, x: (mixed := beside(x, x.flip(0))) - mixed.detach(),
    "has one size": lambda model, x: 0 * x.view(model.size, 16)[:, :1],
    "function": lambda model, x: 0,
    "none": lambda model, x: 0,
}


@pytest.mark.parametrize("kind", ODD)
def test_models_that_may_answer_otherwise_are_asked_to_the_end(kind: str) -> None:
    for count in (1, 2, 3, COUNT):
        model, x = Alone(mlp(), odd=ODD[kind]), images(count)
        model.size, y = count, labels(Alone(mlp()), x)
        asked = (lambda at, model=model: model(at)) if kind == "function" else model
        out = fa.attacks.pgd(asked, x, y, fa.Linf(0.05), steps=60, step_size=0.02, stop_early=False)
        leaves = kind == "none" or (kind, count) == ("has one size", 2)  # a single row passes as a pair
        assert (out.backwards < 60 * count) == out.cycled.any() == leaves


def test_where_it_cannot_hold_or_pay_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ascent.Returns, "__call__")
    rule = type("Same", (fa.attacks.core.GradientRule,), {"__call__": lambda self, search, at, ask: ask(at)})
    model, x = Alone(mlp()), images(4)
    problem: Any = model, x, labels(model, x), fa.Linf(0.05)
    fa.attacks.pgd(*problem, steps=ascent.WORTH - 1, step_size=0.0125)
    fa.attacks.pgd(*problem, steps=ascent.WORTH)  # a default step, whose steps are 2.5 radii together
    fa.attacks.mim(*problem, steps=60)
    fa.attacks.pgd(*problem, steps=60, gradient=rule())
    fa.attacks.pgd(*problem, steps=60, loss=lambda logits, y, targets: -logits[:, 0])
    with pytest.raises(TypeError):
        fa.attacks.pgd(*problem, steps=ascent.WORTH, step_size=0.0125)
