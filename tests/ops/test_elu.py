"""elu and its derivatives against torch in float64, near 0 and far from it, and what they refuse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from balls import assert_refused, few, seeds
from fastadv.ops.elu import elu, elu_gradient


@few
@given(
    seeds, st.sampled_from([(3, 7), (2, 3, 5, 4), (1, 1), (5, 1031), (0, 4)]),
    st.sampled_from([1.0, 0.25, 0.0, -0.5]), st.sampled_from([1e-6, 1.0, 50.0]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_equal_torchs_in_double(seed, shape, alpha, scale, dtype):
    draw = torch.Generator().manual_seed(seed)
    x = (scale * torch.randn(shape, generator=draw)).to(dtype)
    expected = F.elu(x.double(), alpha)
    half = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-23
    torch.testing.assert_close(elu(x, alpha).double(), expected, rtol=1.01 * half, atol=1e-7)
    if x.ndim == 4:
        last = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(elu(last, alpha), elu(x, alpha))
        assert elu(last, alpha).is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(elu(x.transpose(1, 2), alpha), elu(x, alpha).transpose(1, 2))


@pytest.mark.parametrize("alpha", [1.0, 0.25, 0.0, -0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_derivative_keeps_its_digits_however_small_it_is(alpha, dtype):
    x = torch.cat([torch.linspace(-80, 30, 603), torch.tensor([-1e-20, 0.0, 1e-20])])[None].to(dtype)
    x.requires_grad_()
    back = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (found,) = torch.autograd.grad(elu(x, alpha), x, back)
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(F.elu(exact, alpha), exact, back.double())
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 5e-6
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=0)
    assert torch.equal(elu_gradient(back, x.detach(), alpha), found)


def test_the_derivative_where_numbers_end():
    x = torch.tensor([[-torch.inf, -1e9, -100.0, -87.0, torch.inf, torch.nan]])
    found = elu_gradient(torch.ones_like(x), x)
    expected = torch.tensor([[0, 0, 0, 1.64581e-38, 1, torch.nan]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_the_second_derivative(alpha):
    x = torch.linspace(-5, 5, 40).view(4, 10)
    weights = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(2))
    found = []
    for function, dtype in ((elu, torch.float32), (F.elu, torch.float64)):
        leaf, first, second = (value.to(dtype) for value in (x, *weights))
        leaf.requires_grad_()
        (gradient,) = torch.autograd.grad((function(leaf, alpha) * first).sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad((gradient * second).sum(), leaf)[0].double())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_what_they_refuse():
    x = torch.rand(2, 3)
    assert_refused(
        (lambda: elu(x, float("inf")), "scale"),
        (lambda: elu_gradient(x, x, float("nan")), "scale"),
        (lambda: elu_gradient(x, x[:1]), "x: expected"),
        (lambda: elu(x[0]), "rank >= 2"),
    )
