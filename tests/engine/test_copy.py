"""What a search copy shares with its model, what it writes, and which tools refuse a model without one."""

import pytest
import torch

from fastadv.engine import Plain, freeze
from tests.engine.nets import Counting, Net, images

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
