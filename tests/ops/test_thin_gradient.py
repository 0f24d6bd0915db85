"""thin_gradient against autograd of the convolution itself, in float64, over shapes drawn at random."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from fastadv.errors import InputError
from fastadv.ops.thin_gradient import thin_gradient


@st.composite
def convolutions(draw):
    """(B, C, O, kernel, stride, padding, dilation, size), with at least one position of the kernel."""
    pairs = {
        name: (draw(st.integers(least, most)), draw(st.integers(least, most)))
        for name, least, most in (("kernel", 1, 5), ("stride", 1, 3), ("padding", 0, 4), ("dilation", 1, 3))
    }
    size = []
    for kernel, padding, dilation in zip(pairs["kernel"], pairs["padding"], pairs["dilation"], strict=True):
        least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
        size.append(draw(st.integers(least, least + 40)))
    counts = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 40))
    return *counts, pairs["kernel"], pairs["stride"], pairs["padding"], pairs["dilation"], tuple(size)


def by_autograd(gradient, weight, size, stride, padding, dilation):
    x = torch.zeros(len(gradient), weight.shape[1], *size, dtype=torch.float64, requires_grad=True)
    out = conv2d(x, weight.double(), None, stride, padding, dilation)
    return torch.autograd.grad(out, x, gradient.double())[0]


@pytest.mark.slow
@given(convolutions(), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), st.booleans())
def test_equals_autograd(problem, dtype, channels_last):
    count, channels, outputs, kernel, stride, padding, dilation, size = problem
    draw = torch.Generator().manual_seed(sum(size) + outputs)
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    gradient = torch.randn(count, outputs, *out, generator=draw).to(dtype)
    weight = torch.randn(outputs, channels, *kernel, generator=draw).to(dtype)
    given_gradient = gradient.contiguous(memory_format=torch.channels_last) if channels_last else gradient
    actual = thin_gradient(given_gradient, weight, size, stride, padding, dilation)
    expected = by_autograd(gradient, weight, size, stride, padding, dilation)
    assert (actual.dtype, actual.is_contiguous()) == (dtype, True)
    if dtype == torch.bfloat16:  # sums are exact enough, so the rounding is that of the result
        torch.testing.assert_close(actual.double(), expected, rtol=2**-8, atol=1e-4)
    else:
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("outputs", "wide", "padding", "stride"),
    [(19, 32, 7, 1), (19, 32, 40, 1), (19, 32, 15, 3), (16, 18, 0, 1), (33, 47, 1, 1)],
)
def test_rows_that_are_wider_than_the_image_and_blocks_that_overlap(outputs, wide, padding, stride, last):
    """A row of the gradient may be longer than that of the image; channels and pixels end inside a block."""
    draw = torch.Generator().manual_seed(outputs)
    gradient = torch.randn(2, outputs, 3, (wide + 2 * padding - 3) // stride + 1, generator=draw)
    weight = torch.randn(outputs, 2, 1, 3, generator=draw)
    given_gradient = gradient.contiguous(memory_format=torch.channels_last) if last else gradient
    how = (3, wide), (1, stride), (0, padding), (1, 1)
    actual = thin_gradient(given_gradient, weight, *how)
    torch.testing.assert_close(actual.double(), by_autograd(gradient, weight, *how), rtol=1e-5, atol=2e-5)


def test_refusals():
    with pytest.raises(InputError, match="C <= 4 channels"):
        thin_gradient(torch.ones(1, 6, 4, 4), torch.ones(6, 5, 3, 3), (6, 6))
    for wrong in ((1, 5, 4, 4), (1, 6, 4, 5), (6, 4, 4)):
        with pytest.raises(InputError, match=r"gradient: expected \[B, 6, 4, 4\]"):
            thin_gradient(torch.ones(wrong), torch.ones(6, 1, 3, 3), (6, 6))
