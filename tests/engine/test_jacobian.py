"""Frozen.jacobian: gradients of several functions of the logits from one forward."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastadv.engine import Plain, freeze
from fastadv.engine.bound import jacobian
from fastadv.engine.prepared import Counts
from tests.engine.nets import convnet, images

pytestmark = pytest.mark.usefixtures("search_copy")
X, Y = images()
ROWS = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(2))


def test_in_bfloat16() -> None:
    (logits, gradients), (right, expected) = (
        asked.jacobian(X, ROWS) for asked in (freeze(convnet(), "bf16"), Plain(convnet()))
    )
    torch.testing.assert_close(logits, right, rtol=0, atol=0.03)
    assert gradients.dtype == logits.dtype == torch.float32
    for place in range(3):
        assert (gradients[:, place] - expected[:, place]).norm() <= 0.03 * expected[:, place].norm()


@pytest.mark.slow
def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled backward frees its intermediate results, so it can run only once; the copy runs as it is."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    rough = freeze(convnet(), "bf16", compile=True)  # not by the model as given
    rough.input_gradient(X, Y)
    expected = freeze(convnet(), "bf16").jacobian(X, ROWS)[1]
    torch.testing.assert_close(rough.jacobian(X, ROWS)[1], expected, rtol=0, atol=0)
    assert "compiled" in rough.notes
    assert not any("fell back" in note for note in rough.notes)


def test_the_last_gradient_lets_go_of_the_graph() -> None:
    stays = list[bool]()

    def back(leaf: Tensor, attached: Tensor, by_logits: Tensor, retain_graph: bool) -> Tensor:
        stays.append(retain_graph)
        return leaf

    asked = SimpleNamespace(followed=lambda x: (x, ROWS[:, 0]), pull=back, counts=Counts(), eot=1)
    jacobian(asked, None, X, ROWS)
    assert stays == [True, True, False]
