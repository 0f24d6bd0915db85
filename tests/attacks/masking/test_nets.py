"""No honest net raises a flag; what stands in, and log probabilities."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import probes
from fastadv.attacks.masking.verdict import CLEAN, STAND_IN
from fastadv.engine import prepare
from fastadv.errors import NoGradientError
from fastadv.outputs import squashed
from tests.attacks.contract.conftest import shorten
from tests.defenses import Pointwise, Quantize

from .nets import HONEST, StraightThrough, behind, everywhere, honest, in_front

SAMPLES = {"abs": 9}


def measured(name: str, model: object) -> fa.attacks.Indicators:
    test = fa.data.load("digits", "test", limit=SAMPLES.get(name, 80))
    frozen, threat, results = fa.freeze(model), fa.Linf(0.1), {}
    with contextlib.suppress(NoGradientError):
        results["pgd"] = fa.attacks.pgd(frozen, test.x, test.y, threat, steps=20)
    return fa.attacks.indicators(frozen, test.x, test.y, threat, results=results)


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_net_raises_no_flag(name: str) -> None:
    indicators = measured(name, honest(name))
    assert indicators.flagged == ()
    # its rounding has the gradient of the identity, which no attack without gradients has made up for
    replaced = name == "quantization-aware"
    assert indicators.verdict.startswith(f"Inconclusive: {STAND_IN}" if replaced else CLEAN)
    assert indicators.clean != replaced


def test_a_verdict_lists_the_signs_and_what_to_do_about_the_strongest() -> None:
    indicators = measured("quantized", in_front(Quantize(8)))
    first, *lines, last = indicators.verdict.splitlines()
    assert first == f"Do not trust ({len(lines)} signs)."
    assert [line.partition(": ")[0] for line in lines] == [*indicators.flagged]
    assert last == f"Next: {next(iter(indicators.advice.values()))}"


TEST = fa.data.load("digits", "test", limit=40)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        return (levels * x).round() / levels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def rounded(levels: int = 8, dtype: torch.dtype | None = None) -> nn.Module:
    """Rounding, whose own backward pass is that of the identity; in `dtype` alone where one is given."""
    return Pointwise(lambda x: _Rounded.apply(x.to(dtype or x.dtype), levels))


def binary(h: Tensor) -> Tensor:
    soft = (4 * (h - h.mean())).tanh()
    return soft + (soft.sign() - soft).detach()


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return honest("small")(x) + honest("small")(_Rounded.apply(x, 4))


SEEN = {
    "a function of its own": lambda: in_front(rounded(255)),
    "detached": lambda: in_front(StraightThrough()),
    "a dtype that it names": lambda: in_front(rounded(16, torch.float32)),
    "signs of activations": lambda: everywhere(lambda h: Pointwise(binary)),
    "logits": lambda: behind(rounded()),
    "one of two branches": lambda: Half().eval(),
    "a function": lambda: lambda x: honest("vit")(rounded()(x)),
    "frozen": lambda: fa.freeze(in_front(rounded()), precision="bf16"),
    "quantization-aware": lambda: honest("quantization-aware"),
}
NO_STAND_INS = {
    **{name: lambda name=name: honest(name) for name in ("standard", "robust", "vit", "deep")},
    "kinks": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1), honest("wide")).eval(),
    "a function of a net": lambda: lambda x: honest("vit")(x),
    "bfloat16": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).bfloat16(),
    "a gradient of zero": lambda: in_front(Quantize(8)),
}


@pytest.mark.parametrize("name", [*SEEN, *NO_STAND_INS])
def test_a_straight_through_rule_is_seen(name: str) -> None:
    classifier, x = prepare({**SEEN, **NO_STAND_INS}[name]()), TEST.x[:8]
    task = Task.of(classifier, x, classifier.verdict(x).argmax(1), fa.Linf(0.1))
    gradient = probes.Answer.of(task).gradient
    assert {probes.stands_in(task, gradient, seed) for seed in range(2)} == {name in SEEN}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpda", "straight through"])
def test_the_verdict_waits_for_an_attack_without_gradients(name: str, monkeypatch: Any) -> None:
    mended = fa.models.bpda(in_front(Quantize(8)), {"before": "identity"})
    model, threat = mended if name == "bpda" else in_front(rounded()), fa.Linf(0.03)
    data = TEST.x, model(TEST.x).argmax(1)
    quick = partial(fa.attacks.autoattack, model, *data, threat, version="quick")
    assert name == "bpda" or STAND_IN in quick().verdict
    shorten(monkeypatch, {"apgd": {"steps": 5}, "square": {"queries": 500}})
    assert ("standard square" in quick().costs) == (name == "bpda")
    square, short = (partial(fa.attacks.square, queries=count) for count in (500, 300))
    auto = partial(fa.attacks.autoattack, version=["apgd-ce"])
    far = partial(short, threat=fa.Linf(1.0))
    for attacks in ("pgd", {"auto": auto}, ["pgd", short], ["pgd", far], {"pgd": "pgd", "square": square}):
        table = fa.evaluate(model, data, attacks, threat=threat)
        assert table.verdict.startswith(f"Inconclusive: {STAND_IN} (") == ("square" not in attacks)
        assert "square" not in attacks or table.verdict.startswith("No sign of masking")
    for version in (["apgd-ce"], ["apgd-ce", "square"]):
        out = fa.attacks.autoattack(model, *data, threat, version=version)
        assert (STAND_IN in out.verdict) == ("square" not in version)
    few = fa.evaluate(model, data, "pgd", threat=threat, limit=7).verdict
    assert few.startswith("Inconclusive")
    assert (STAND_IN in few) == (name == "bpda")  # else it takes a look at eight samples


X = fa.data.load("digits", "test", limit=40).x


def ends(head: Callable[[Tensor], Tensor], scale: float = 1.0, classes: int = 10) -> nn.Module:
    """Return the standard net with scaled logits of some classes, and a head."""
    return behind(Pointwise(lambda z: head(scale * z[:, :classes])))


def autocast(z: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return nn.functional.linear(z, torch.eye(z.shape[1])).log_softmax(1)


LOGS = nn.LogSoftmax(1)
QUIET = {
    "of probabilities": lambda: ends(lambda z: (z.softmax(1) + 1e-12).log()),
    "in half precision": lambda: ends(lambda z: z.log_softmax(1).half()),
    "under autocast": lambda: ends(autocast),
    **{f"{scale} {k}": lambda s=scale, k=k: ends(LOGS, s, k) for scale in (0.1, 1.0, 100.0) for k in (2, 10)},
    "a function": lambda: lambda x: honest("vit")(x).log_softmax(1),
    "float64": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), LOGS).double(),
    "bfloat16": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), LOGS).bfloat16(),
    "frozen": lambda: fa.freeze(ends(LOGS, 3.0), precision="bf16"),
}
TOLD = {
    "a log-sigmoid for each class": nn.LogSigmoid(),
    "a floor that many meet": lambda z: z.log_softmax(1).clamp(min=-6.0),
    "smoothed": lambda z: (0.9 * z.softmax(1) + 0.01).log(),
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", [*QUIET, *TOLD])
def test_what_is_squashed(name: str) -> None:
    for scale in (1.0, 30.0):
        model = QUIET[name]() if name in QUIET else ends(TOLD[name], scale)
        assert (squashed(prepare(model).verdict(X)) is not None) == (name in TOLD)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_attacks_find_what_they_find_on_logits(scale: float) -> None:
    logits, logs = (ends(head, scale) for head in (nn.Identity(), LOGS))
    y = logits(X).argmax(1)
    assert squashed(logs(X).detach()) is None
    outs = [fa.attacks.pgd(model, X, y, fa.Linf(0.08), steps=10) for model in (logits, logs)]
    assert outs[0].robust_accuracy == outs[1].robust_accuracy
