"""The machine in a bottle: products keep what is exact and lose their last bits, forward and backward."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.other_machine import OtherMachine, kernel_of

pytestmark = pytest.mark.skipif(kernel_of is None, reason="kernels can be replaced so since torch 2.7")

linear = nn.functional.linear


def wave(*shape: int) -> Tensor:
    """Numbers of which no product is exact."""
    return torch.linspace(1, 9, torch.Size(shape).numel()).sin().reshape(shape)


def convolved(dimensions: int, *, transposed: bool = False) -> Callable[[Tensor], Tensor]:
    name = f"conv{'_transpose' * transposed}{dimensions}d"
    weight = wave(3, 3, *[3] * dimensions)
    return lambda x: getattr(nn.functional, name)(x.reshape(-1, 3, *[4] * dimensions), weight, wave(3))


TERMS = 3 * 3**3 + 1  # at most: a convolution in three dimensions, with its bias
# each with the shape of the tensor that it takes
PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "conv2d": (convolved(2), (5, 48)),
    "conv3d": (convolved(3), (5, 192)),
    "conv_transpose2d": (convolved(2, transposed=True), (5, 48)),
    "linear": (lambda x: linear(x, wave(8, 64), wave(8)), (5, 64)),
    "matmul": (lambda x: x @ wave(64, 8), (5, 64)),
    "bmm": (lambda x: torch.bmm(x, wave(2, 64, 8)), (2, 5, 64)),
    "baddbmm": (lambda x: torch.baddbmm(wave(2, 5, 8), x, wave(2, 64, 8)), (2, 5, 64)),
    "mv": (lambda x: wave(25, 64) @ x, (64,)),
}


def both(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The value at x and the gradient of a linear function of it."""
    x = x.clone().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value, x, wave(*value.shape))[0]


@pytest.fixture
def elsewhere() -> Iterator[Callable[[int], None]]:
    """Moves the rest of the test to another machine."""
    machines: list[OtherMachine] = []
    yield lambda seed: machines.append(OtherMachine(seed))
    for machine in reversed(machines):
        machine.close()


@pytest.mark.parametrize("name", PRODUCTS)
def test_last_bits_differ_forward_and_backward(elsewhere, name):
    function, shape = PRODUCTS[name]
    x = wave(*shape)
    here = both(function, x)
    elsewhere(3)
    there, again = both(function, x), both(function, x)
    for one, other, same in zip(here, there, again, strict=True):
        assert torch.equal(other, same)
        assert not torch.equal(one, other)
        # each of two orders rounds up to TERMS partial sums, of numbers up to 1, by half of eps
        torch.testing.assert_close(one, other, rtol=0, atol=TERMS**2 * torch.finfo(torch.float32).eps)
        assert one.stride() == other.stride()
