"""What a search copy shares with its model, what it writes, and which tools refuse a model without one."""

from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.engine import Plain, freeze
from tests.engine.nets import Counting, Guarded, Itself, Merges, Net, Refusing, images
from tests.refusals import refuses

pytestmark = pytest.mark.usefixtures("search_copy")
X, Y = images()


def test_what_the_forward_of_a_search_copy_writes_is_its_own() -> None:
    net = Counting().eval()
    frozen = freeze(net)
    frozen.input_gradient(X, Y)  # compared
    before = int(net.passes)
    frozen.input_gradient(X, Y)
    assert frozen.searches(X)
    assert net.passes == before


@pytest.mark.parametrize(
    ("kind", "why"), [(Guarded, "pickle"), (Refusing, "one of a kind"), (Itself, "shares parts")]
)
def test_what_is_nothing_but_a_copy_is_refused(kind: Any, why: str) -> None:
    model = kind()
    for tool in (
        lambda: fa.models.bpda(model, {"drop": "identity"}),
        lambda: fa.models.representation(model),
    ):
        refuses(rf"copy\.deepcopy can copy, got {kind.__name__} .*{why}", tool)
    assert model.training
    merges = nn.Sequential(nn.Flatten(), nn.Linear(128, 7), Merges(7, 3)).train()
    refuses(r"eval\(\) changes its weights", fa.models.representation, merges)
    assert fa.models.representation(merges.eval())(X).shape == (6, 7)


@pytest.mark.parametrize("inside", [False, True])
def test_a_model_of_inference_mode(inside: bool) -> None:
    """Made there, and frozen there as well or outside."""
    with torch.inference_mode():
        model = Net()
    with torch.inference_mode(inside):
        asked = [freeze(model), Plain(model)]
    for one in asked:
        value, _, gradient = one.input_gradient(X, Y)
        assert gradient.abs().sum() > 0
        assert value.isfinite().all()
