"""largest against torch's norm, where values are not finite, tiny, of either sign, or in another layout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import few, seeds
from fastadv.ops import largest

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@few
@given(
    seeds, st.sampled_from(DTYPES), st.sampled_from([(5, 3, 4, 4), (1, 1), (4, 3072), (300, 7), (0, 3)]),
    st.sampled_from([1.0, 1e-30, 1e30]),
)  # fmt: skip
def test_equals_the_norm(seed, dtype, shape, scale):
    draw = torch.Generator().manual_seed(seed)
    values = (scale * torch.randn(shape, generator=draw)).to(dtype)
    expected = values.double().flatten(1).abs().amax(1)
    assert torch.equal(largest(values).double(), expected)
    assert largest(values).dtype == dtype
    if values.ndim == 4:
        assert torch.equal(largest(values.contiguous(memory_format=torch.channels_last)).double(), expected)
        assert torch.equal(largest(values.transpose(1, 2)).double(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_shows_in_its_own_row_alone(dtype):
    values = torch.full((6, 33), -0.5, dtype=dtype)
    values[1, 32], values[2, 0], values[3, 5] = torch.nan, -torch.inf, torch.inf
    values[4, 7], values[4, 8], values[5] = torch.inf, -torch.nan, -0.0
    found = largest(values).double().tolist()
    assert found[0] == 0.5
    assert found[2:4] == [float("inf")] * 2
    assert found[1] != found[1]
    assert found[4] != found[4]
    assert str(found[5]) == "0.0"
