"""A positive factor of all logits changes no decision, and so little else; powers of two change no bit."""

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

from .cases import NAMED, Brief

NEAR, FAR = (2.0**14, 2.0**-14), (2.0**66, 2.0**-66)
# losses that know no scale, for attacks that ascend cross-entropy, which does where logits are large
LOSSES = {"linf": "dlr", "l2": "margin", "l1": "dlr", "l0": "dlr"}
# how much farther or nearer successes may be, by the median, where an attack itself weighs the margin or
# cross-entropy, as published, or runs one that does; for such logits as nets have, not for the far factors
WITHIN = {"minimum_norm": 1.1, "pdgd": 1.1, "pdpgd": 1.1}


@cache
def digits(net: str) -> tuple[nn.Module, Tensor, Tensor]:
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


def ascending(case: Brief, norm: str) -> dict[str, Any]:
    """A loss that knows no scale, for the attacks that ascend cross-entropy otherwise."""
    if case.name == "minimum_radius":
        return {"attack": partial(bim, steps=4, loss=LOSSES[norm])}
    loss = case.entry.parameters.get("loss")
    return {"loss": LOSSES[norm]} if case.name == "ddn" or (loss and loss.default == "ce_sharp") else {}


@pytest.mark.slow
@pytest.mark.only(knowledge="gradient")
def test_a_factor_of_the_logits_changes_nothing(case: Brief, norm: str) -> None:
    """But in AutoAttack, of which cross-entropy is a part, a sample more or less."""
    given, within = ascending(case, norm), WITHIN.get(case.name)
    plain = attacked(case, norm, 1.0, **given)
    assert int(plain.success.sum()) == 8 if case.entry.minimal else bool(plain.success.any())
    for factor in NEAR if within else FAR:
        out = attacked(case, norm, factor, **given)
        if case.name == "autoattack":
            assert abs(int(out.success.sum()) - int(plain.success.sum())) <= 1
        elif within:
            assert torch.equal(out.success, plain.success)
            assert 1 / within <= float(out.distance.median() / plain.distance.median()) <= within
        else:
            assert torch.equal(out.success, plain.success)
            assert torch.equal(out.x_adv, plain.x_adv)


@pytest.mark.parametrize("name", ["bim", "pgd", "mim"])
def test_of_large_logits_cross_entropy_is_the_margin(name: str) -> None:
    """No probability but 0 and 1 is left, and yet nothing is lost."""
    case = NAMED[name]
    assert torch.equal(
        attacked(case, "linf", 2.0**14).x_adv, attacked(case, "linf", 1.0, loss="margin").x_adv
    )
