"""thin_gradient against autograd of the convolution itself, at its edges."""

import pytest
import torch
from torch.nn.functional import conv2d

from fastadv.errors import InputError
from fastadv.ops.thin_gradient import thin_gradient


def by_autograd(gradient, weight, size, stride, padding, dilation):
    x = torch.zeros(len(gradient), weight.shape[1], *size, dtype=torch.float64, requires_grad=True)
    out = conv2d(x, weight.double(), None, stride, padding, dilation)
    return torch.autograd.grad(out, x, gradient.double())[0]


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
        with pytest.raises(InputError, match=r"gradient: expected floating \[B, 6, 4, 4\]"):
            thin_gradient(torch.ones(wrong), torch.ones(6, 1, 3, 3), (6, 6))
