"""A positive factor of all logits changes no decision, and so little else: no attack depends on their scale.

The factors are powers of two, of ten thousand and far more, which change no digit: where an attack knows no
scale, its result is the same bit for bit on any machine.
"""

from functools import cache, partial
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, bim
from fastadv.threat import THREATS
from tests.parity.models import NETS, Scaled, small

from .cases import Brief

FACTORS = (2.0**14, 2.0**-14, 2.0**66, 2.0**-66)
# losses that know no scale, where an attack takes one
LOSSES = {"linf": "ce_scaled", "l2": "margin", "l1": "dlr", "l0": "ce_scaled"}


@cache
def digits(net: str) -> tuple[nn.Module, Tensor, Tensor]:
    """An adversarially trained net, and eight digits that it knows."""
    model = small(net)
    x, y, _ = next(iter(fa.data.batches(fa.data.load("digits", "test"), 40)))
    x = nn.functional.pad(nn.functional.interpolate(x, size=(20, 20), mode="bilinear"), (4, 4, 4, 4))
    known = model(x).argmax(1) == y
    return model, x[known][:8], y[known][:8]


def attacked(case: Brief, norm: str, factor: float, **given: Any) -> AttackResult:
    net = "linf" if norm == "linf" else "l2"
    model, x, y = digits(net)
    threat = THREATS[norm](inf if case.entry.minimal else 0.6 * NETS[net].radii[norm])
    return case(Scaled(model, factor), x, y, threat, **given)


def scale_free(case: Brief, norm: str) -> dict[str, Any]:
    """The loss, where the attack takes one."""
    if case.name == "minimum_radius":
        return {"attack": partial(bim, steps=4, loss=LOSSES[norm])}
    return {"loss": LOSSES[norm]} if case.takes("loss") else {}


@pytest.mark.only(knowledge="gradient")
def test_a_factor(case: Brief, norm: str) -> None:
    given = scale_free(case, norm)
    plain = attacked(case, norm, 1.0, **given)
    for factor in FACTORS:
        out = attacked(case, norm, factor, **given)
        print(case.name, norm, factor, torch.equal(plain.x_adv, out.x_adv), plain.success.sum(), out.success.sum(), plain.distance.median(), out.distance.median())
