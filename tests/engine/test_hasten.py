"""Layers done otherwise give what the library gives, forwards and backwards; the caller keeps his own."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine.hasten import CoveringConv2d, FastELU, fast_elu, hasten


class Functional(nn.Module):
    """ELU as a function, a convolution that covers what is left of the image, and a BatchNorm."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alpha, self.inplace = alpha, inplace
        self.first, self.norm = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 4, (4, 3), stride=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.elu(self.norm(self.first(x)), self.alpha, inplace=self.inplace)
        return self.last(hidden).flatten(1)


def answers(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), y, reduction="sum"), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize(
    ("alpha", "inplace"), [(1.0, False), (0.3, False), (1.0, True), (-0.5, False), (0.0, False)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_search_twin_gives_what_the_model_gives(alpha: float, inplace: bool, dtype: torch.dtype) -> None:
    model = Functional(alpha, inplace).to(dtype).eval()
    x, y = torch.randn(5, 3, 9, 7, dtype=dtype), torch.arange(5) % 4
    frozen = fa.freeze(model)
    assert "fast ELU" in frozen.notes
    assert not any("fell back" in note for note in frozen.notes)
    logits, gradient = answers(model, x, y)
    tight = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(frozen(x), logits, **tight)
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], gradient, rtol=1e-4, atol=1e-7)
    rows = frozen.jacobian(x, torch.eye(4, dtype=dtype).expand(5, 4, 4))[1]
    for k in range(4):
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(rows[:, k], torch.autograd.grad(model(leaf)[:, k].sum(), leaf)[0], **tight)
    assert type(model.last) is nn.Conv2d


def test_in_bfloat16_it_is_as_near_as_the_library() -> None:
    model = Functional().eval()
    x, y = torch.randn(64, 3, 9, 7), torch.arange(64) % 4
    _, exact = answers(model, x, y)
    own = fa.freeze(model, "bf16").input_gradient(x, y)[2]
    theirs = answers(copy.deepcopy(model).bfloat16(), x.bfloat16(), y)[1]
    assert (own - exact).norm() < 1.2 * (theirs.float() - exact).norm()


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(4, 3), (5, 3), (4, 6), (9, 8)])
def test_a_convolution_whatever_the_image(
    format: torch.memory_format, bias: bool, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 5, (4, 3), stride=2, bias=bias).to(memory_format=format))
    own = copy.deepcopy(plain)
    assert hasten(own) == 0
    assert type(own[0]) is CoveringConv2d
    x = torch.randn(3, 6, *size).contiguous(memory_format=format).requires_grad_()
    out, expected = own(x), plain(x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    back = torch.randn_like(expected)
    gradients = [torch.autograd.grad(result, x, back)[0] for result in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own(x[0].detach()), plain(x[0].detach()))  # an image without a batch


def test_only_what_is_the_same() -> None:
    kept = [
        nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding="same"), nn.ConvTranspose2d(4, 4, 3),
        nn.CELU(),
    ]  # fmt: skip
    hasten(nn.Sequential(*kept))
    assert not any(isinstance(part, CoveringConv2d | FastELU) for part in kept)
    assert hasten(nn.Sequential(nn.ELU(), nn.Linear(2, 2))) == 1
    assert hasten(nn.Sequential(nn.ELU())) == 0  # nothing tells its device


def test_elu_at_its_ends() -> None:
    x = torch.tensor([[-torch.inf, -200.0, -88.0, -1e-30, -0.0, 0.0, 1e-30, 3e38, torch.inf, torch.nan]])
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float16):
        torch.testing.assert_close(fast_elu(x.to(dtype)), F.elu(x.to(dtype)), equal_nan=True)
    line = torch.randn(7)
    assert torch.equal(fast_elu(line), F.elu(line))
    layer = FastELU(0.5, inplace=True)
    layer(line)
    assert (line > -0.5).all()
