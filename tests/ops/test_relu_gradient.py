"""relu_gradient against torch's own gradient, to the bit, and what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import few, seeds
from fastadv.errors import InputError
from fastadv.ops.relu_gradient import relu_gradient


@pytest.mark.slow
@few
@given(
    seeds, st.sampled_from([(3, 7), (2, 3, 5, 4), (1, 1), (5, 1031), (0, 4), (2, 70000)]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.float16]),
)  # fmt: skip
def test_equals_torchs(seed, shape, dtype):
    draw = torch.Generator().manual_seed(seed)
    x, back = (torch.randn(shape, generator=draw).to(dtype) for _ in range(2))
    leaf = x.clone().requires_grad_()
    value = leaf.relu()
    (expected,) = torch.autograd.grad(value, leaf, back)
    value = value.detach()
    assert torch.equal(relu_gradient(back, value), expected)
    if x.ndim == 4:
        last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (back, value)]
        assert torch.equal(relu_gradient(*last), expected)
        assert torch.equal(relu_gradient(last[0], value), expected)


def test_what_is_not_finite():
    value = torch.tensor([[0.0, 2.0, torch.nan, torch.inf, 0.0, 1.0]])
    gradient = torch.tensor([[torch.nan, torch.nan, 3.0, 4.0, torch.inf, torch.inf]])
    expected = torch.tensor([[0.0, torch.nan, 3.0, 4.0, 0.0, torch.inf]])
    torch.testing.assert_close(relu_gradient(gradient, value), expected, equal_nan=True)


def test_what_it_refuses():
    x = torch.rand(2, 3)
    for value in (x[:1], x.double()):
        with pytest.raises(InputError, match="value: expected"):
            relu_gradient(x, value)
