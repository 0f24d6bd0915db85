"""Every broken defense raises its flag, and no honest net raises any."""

import contextlib

import pytest
import torch

import fastadv as fa
from fastadv.attacks.masking.verdict import CLEAN, STAND_IN
from fastadv.errors import NoGradientError

from .nets import DEFENSES, HONEST, honest

SAMPLES = {"abs": 9}


def found(name: str, model: object) -> fa.attacks.Indicators:
    test = fa.data.load("digits", "test", limit=SAMPLES.get(name, 80))
    frozen, threat, results = fa.freeze(model), fa.Linf(0.1), {}
    with contextlib.suppress(NoGradientError):
        results["pgd"] = fa.attacks.pgd(frozen, test.x, test.y, threat, steps=20)
    return fa.attacks.indicators(frozen, test.x, test.y, threat, results=results, share=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_net_raises_no_flag(name: str) -> None:
    indicators = found(name, honest(name))
    assert indicators.flagged == ()
    # its rounding has the gradient of the identity, which no attack without gradients has made up for
    replaced = name == "quantization-aware"
    assert indicators.verdict.startswith(f"Inconclusive: {STAND_IN}" if replaced else CLEAN)
    assert indicators.clean != replaced


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFENSES)
def test_a_broken_defense_raises_its_flag(name: str) -> None:
    make, flag = DEFENSES[name]
    torch.manual_seed(0)  # of nine places of a crop, one leaves no digit that is right
    indicators = found(name, make())
    assert flag in indicators.flagged
    first, *each, last = indicators.verdict.splitlines()
    assert first == f"Do not trust ({len(each)} sign{'s' * (len(each) > 1)})."
    assert [line.partition(": ")[0] for line in each] == [*indicators.flagged]
    assert last == f"Next: {next(iter(indicators.advice.values()))}"
