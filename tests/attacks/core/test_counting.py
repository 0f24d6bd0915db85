"""Forwards and backwards in a result are those the model has seen."""

from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn

from fastadv.attacks import deepfool, fgsm, pgd, square
from fastadv.engine import freeze
from fastadv.engine.precision import Precision

from ..nets import Counted, convnet, images, labeled, labels
from ..nets import threat as within


def counted(net: nn.Module) -> tuple[nn.Module, Counter[str]]:
    seen: Counter[str] = Counter()
    return Counted(net, lambda n: seen.update(forward=n), lambda n: seen.update(backward=n)), seen


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("threat", ["linf", "l2"])
def test_counts_are_true_of_a_frozen_model(precision: Precision, threat: str) -> None:
    """What is compared counts, too, and what is left of a batch by the plain model."""
    net, x, y = labeled(convnet(), images(64, (2, 8, 8), dtype=torch.float32))
    model, seen = counted(net)
    frozen = freeze(model, precision)
    for attack in (
        partial(pgd, steps=8, restarts=2),
        partial(deepfool, steps=5),
        partial(square, queries=20),
    ):
        seen.clear()
        out = attack(frozen, x, y, within(threat))
        assert (out.forwards, out.backwards) == (seen["forward"], seen["backward"])
    seen.clear()
    out = pgd(model, x, y, within(threat), steps=8, freeze=True)
    assert (out.forwards, out.backwards) == (seen["forward"], seen["backward"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_gradient_of_a_frozen_model_is_that_of_its_verdict(precision: Precision) -> None:
    net, x, y = labeled(convnet(), images(64, (2, 8, 8), dtype=torch.float32))
    frozen = freeze(net, precision)
    for gain in (1.0, -1.0, 3.0):  # it is that of the model as it is now
        with torch.no_grad():
            net[-1].weight.mul_(gain)
        y = labels(net, x)
        fgsm(frozen, x, y, within("linf"))
        out, plain = (fgsm(each, x, y, within("linf")) for each in (frozen, net))
        assert torch.equal(out.x_adv, plain.x_adv)
        assert (out.forwards, out.backwards) == (plain.forwards, plain.backwards) == (128, 64)
