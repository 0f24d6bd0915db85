"""The machine in a bottle: products keep what is exact and lose their last bits, forward and backward."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.other_machine import OtherMachine, kernel_of

pytestmark = pytest.mark.skipif(kernel_of is None, reason="kernels can be replaced so since torch 2.7")


def wave(*shape: int) -> Tensor:
    """Numbers of which no product is exact."""
    return torch.linspace(1, 9, torch.Size(shape).numel()).sin().reshape(shape)


TERMS = 64 + 1  # at most: a matrix product, with its bias
PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "conv2d": (lambda x: F.conv2d(x, wave(3, 3, 3, 3), wave(3)), (5, 3, 4, 4)),
    "linear": (lambda x: F.linear(x, wave(8, 64), wave(8)), (5, 64)),
    "matmul": (lambda x: x @ wave(64, 8), (5, 64)),
    "baddbmm": (lambda x: torch.baddbmm(wave(2, 5, 8), x, wave(2, 64, 8)), (2, 5, 64)),
    "mv": (lambda x: wave(25, 64) @ x, (64,)),
}


def both(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The value at x and the gradient of a linear function of it."""
    x = x.clone().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value, x, wave(*value.shape))[0]


@pytest.mark.parametrize("name", PRODUCTS)
def test_last_bits_differ_forward_and_backward(name):
    function, shape = PRODUCTS[name]
    here = both(function, wave(*shape))
    machine = OtherMachine(3)
    try:
        there, again = both(function, wave(*shape)), both(function, wave(*shape))
    finally:
        machine.close()
    for one, other, same in zip(here, there, again, strict=True):
        assert torch.equal(other, same)
        assert not torch.equal(one, other)
        # each of two orders rounds up to TERMS partial sums, of numbers up to 1, by half of eps
        torch.testing.assert_close(one, other, rtol=0, atol=TERMS**2 * torch.finfo(torch.float32).eps)
        assert one.stride() == other.stride()
