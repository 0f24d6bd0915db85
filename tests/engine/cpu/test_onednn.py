"""Linear layers by oneDNN give what torch gives."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine.cpu import onednn
from fastadv.engine.cpu.onednn import LINEAR
from tests.engine.rewritten import Seen

pytestmark = pytest.mark.skipif(not onednn.available(), reason="torch was built without oneDNN")


@pytest.fixture(autouse=True)
def _whoever_made_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_faster", onednn.available)


@pytest.fixture
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "LEAST", 0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 7), (5, 7), (3, 4, 7), (2, 3, 1, 7), (0, 7)])
@pytest.mark.usefixtures("_small_ones_too")
def test_values_and_derivatives(shape: tuple[int, ...], bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 7, generator=draw)
    shift = torch.randn(6, generator=draw) if bias else None
    x = torch.randn(shape, generator=draw)
    wide, seen = torch.zeros(*shape[:-1], 14), Seen(F.linear, LINEAR)
    wide[..., ::2] = x
    for batch in (x, wide[..., ::2], x.transpose(0, 1).contiguous().transpose(0, 1)):
        results = []
        for linear in (seen, F.linear):
            leaf = batch.detach().requires_grad_()
            out = linear(leaf, weight, shift)
            back = torch.arange(float(out.numel())).view(out.shape).cos()
            (gradient,) = torch.autograd.grad(out, leaf, back, create_graph=True)
            results.append((out.detach(), gradient.detach()))
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
        assert seen.used == {"onednn"}


@pytest.mark.parametrize("bias", [torch.arange(12.0)[::2], torch.ones(1).expand(6)], ids=["step", "expanded"])
@pytest.mark.usefixtures("_small_ones_too")
def test_a_bias_with_strides(bias: Tensor) -> None:
    x, weight, seen = torch.randn(5, 7), torch.randn(6, 7), Seen(F.linear, LINEAR)
    torch.testing.assert_close(seen(x, weight, bias), F.linear(x, weight, bias))
    torch.testing.assert_close(seen(input=x, bias=bias, weight=weight), F.linear(x, weight, bias))
    assert seen.used == {"onednn"}


@pytest.mark.usefixtures("_small_ones_too")
def test_what_is_left_to_torch() -> None:
    weight, x, seen = torch.randn(6, 7), torch.randn(4, 7), Seen(F.linear, LINEAR)
    for dtype in (torch.float64, torch.bfloat16):
        assert torch.equal(seen(x.to(dtype), weight.to(dtype)), F.linear(x.to(dtype), weight.to(dtype)))
    for of, to in ((x[0], weight), (x, weight[0])):
        assert torch.equal(seen(of, to), F.linear(of, to))
    with torch.autocast("cpu", torch.bfloat16):
        assert seen(x, weight).dtype == torch.bfloat16
    for others in ((weight.double(), None), (weight, weight[:, 0].double())):
        with pytest.raises(RuntimeError):
            seen(x, *others)
    with pytest.raises(RuntimeError, match=r"shapes|size"):
        seen(x[:, :5], weight)
    assert seen.used == set()


@pytest.mark.parametrize(
    ("intel", "mkl", "faster"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_mkl_stays_on_intel_processors(intel, mkl, faster, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(onednn, "is_intel", lambda: intel)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(onednn, "LEAST", 0)
    layer = nn.Linear(6, 5).requires_grad_(False)
    assert onednn.gains(layer) == faster
    assert (onednn.fast_linear(torch.randn(3, 6), layer.weight) is not NotImplemented) == faster
