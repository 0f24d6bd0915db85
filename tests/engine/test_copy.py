"""What a search copy shares with its model, and what it writes."""

import pytest
import torch

from fastadv.engine import Plain, freeze
from fastadv.engine.copy import copied
from tests.engine.nets import CASES, Counting, Net, images

pytestmark = pytest.mark.usefixtures("search_copy")
X, Y = images()
COPIED = ["a forward by a partial", "a forward by the parent", "unregistered parts", "activations kept"]


@pytest.mark.parametrize("name", COPIED)
def test_a_copy_owns_no_weights_and_asks_for_no_gradient_of_them(name: str) -> None:
    net, right = CASES[name].build(), CASES[name].build().eval()
    for twin in (copied(net), copied(net, buffers=True)):
        torch.testing.assert_close(twin(X), right(X).detach())
        assert not any(part.training for part in twin.modules())
        assert not any(weight.requires_grad for weight in twin.parameters())
        for mine, theirs in zip(twin.parameters(), net.parameters(), strict=True):
            assert mine.data_ptr() == theirs.data_ptr()
    assert all(weight.requires_grad for weight in net.parameters())


def test_what_the_forward_of_a_search_copy_writes_is_its_own() -> None:
    net = Counting().eval()
    frozen = freeze(net)
    frozen.input_gradient(X, Y)  # compared
    before = int(net.passes)
    frozen.input_gradient(X, Y)
    assert frozen.searches(X)
    assert net.passes == before


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
