"""A gradient that stands in for another: what is seen of it, and that Square must confirm the verdict."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.auto.run import ATTACKS
from fastadv.attacks.core.problem import problem
from fastadv.attacks.masking import probes
from fastadv.attacks.masking.verdict import STAND_IN
from fastadv.engine import prepare
from tests.attacks.contract.conftest import shortened
from tests.defenses import Quantize

from .nets import StraightThrough, behind, everywhere, honest, in_front

TEST = fa.data.load("digits", "test", limit=40)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        return (levels * x).round() / levels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class Rounded(nn.Module):
    """Rounding, whose own backward pass is that of the identity; in `dtype` alone where one is given."""

    def __init__(self, levels: int = 8, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.levels, self.dtype = levels, dtype

    def forward(self, x: Tensor) -> Tensor:
        return _Rounded.apply(x if self.dtype is None else x.to(self.dtype), self.levels)


class Binary(nn.Module):
    """Signs with the slope of a tanh, as in binary networks."""

    def forward(self, h: Tensor) -> Tensor:
        soft = (4 * (h - h.mean())).tanh()
        return soft + (soft.sign() - soft).detach()


class Half(nn.Module):
    """A branch that is rounded beside one that is not."""

    def forward(self, x: Tensor) -> Tensor:
        return honest("small")(x) + honest("small")(Rounded(4)(x))


SEEN = {
    "a function of its own": lambda: in_front(Rounded(255)),
    "detached": lambda: in_front(StraightThrough()),
    "a dtype that it names": lambda: in_front(Rounded(16, torch.float32)),
    "signs of activations": lambda: everywhere(lambda h: Binary()),
    "logits": lambda: behind(Rounded()),
    "one of two branches": lambda: Half().eval(),
    "a function": lambda: lambda x: honest("vit")(Rounded()(x)),
    "frozen": lambda: fa.freeze(in_front(Rounded()), precision="bf16"),
    "quantization-aware": lambda: honest("quantization-aware"),
}
HONEST = {
    **{name: lambda name=name: honest(name) for name in ("standard", "robust", "vit", "deep")},
    "kinks": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1), honest("wide")).eval(),
    "a function of a net": lambda: lambda x: honest("vit")(x),
    "bfloat16": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).bfloat16(),
    "a gradient of zero": lambda: in_front(Quantize(8)),
}


@pytest.mark.parametrize("name", [*SEEN, *HONEST])
def test_a_straight_through_rule_is_seen(name: str) -> None:
    classifier, x = prepare({**SEEN, **HONEST}[name]()), TEST.x[:8]
    task = problem(x, classifier.verdict(x).argmax(1), fa.Linf(0.1))
    assert {probes.stands_in(classifier, task, seed) for seed in range(2)} == {name in SEEN}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpda", "straight through"])
def test_the_verdict_waits_for_an_attack_without_gradients(name: str, monkeypatch: Any) -> None:
    for attack, few in {"apgd": {"steps": 5}, "square": {"queries": 20}}.items():
        monkeypatch.setitem(ATTACKS, attack, shortened(ATTACKS[attack], few))
    mended = fa.models.bpda(in_front(Quantize(8)), {"before": "identity"})
    model, threat = mended if name == "bpda" else in_front(Rounded()), fa.Linf(0.03)
    data, square = (TEST.x, model(TEST.x).argmax(1)), partial(fa.attacks.square, queries=20)
    auto = partial(fa.attacks.autoattack, version=["apgd-ce"])
    for attacks in ("pgd", {"auto": auto}, {"pgd": "pgd", "square": square}):
        table = fa.evaluate(model, data, attacks, threat=threat)
        assert table.verdict.startswith(f"Inconclusive: {STAND_IN} (") == ("square" not in attacks)
        assert "square" not in attacks or table.verdict.startswith("No sign of masking")
    for version in (["apgd-ce"], ["apgd-ce", "square"]):
        out = fa.attacks.autoattack(model, *data, threat, version=version)
        assert (STAND_IN in out.verdict) == ("square" not in version)
    few = fa.evaluate(model, data, "pgd", threat=threat, limit=7).verdict
    assert few.startswith("Inconclusive")
    assert (STAND_IN in few) == (name == "bpda")  # else it takes a look at eight samples
