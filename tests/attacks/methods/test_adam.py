"""Adam as torch has it, over samples that leave on the way."""

import pytest
import torch

from fastadv.attacks.methods.adam import Moments, adam


class Moved(Moments):
    ours: torch.Tensor


@pytest.mark.parametrize("least", [0.0, 1e-8, 0.1])
def test_steps_are_those_of_torch(least: float) -> None:
    """The second of three samples leaves after the fourth step; the others go on as if it were there."""
    draw = torch.Generator().manual_seed(0)
    gradients = torch.randn(9, 3, 784, generator=draw, dtype=torch.float64)
    theirs = torch.zeros(3, 784, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.01, eps=least)
    rows, kept = Moved(), torch.tensor([True, True, True])
    rows.ours = torch.zeros(3, 784, dtype=torch.float64)
    for step, gradient in enumerate(gradients):
        if step == 4:
            kept = torch.tensor([True, False, True])
            rows.take(kept)
        theirs.grad = gradient.clone()
        optimizer.step()
        rows.ours -= 0.01 * adam(rows, gradient[kept], step, least)
        torch.testing.assert_close(rows.ours, theirs.detach()[kept], rtol=1e-12, atol=1e-15)


def test_step_zero_begins_anew() -> None:
    rows, gradient = Moments(), torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    for step in range(3):
        adam(rows, gradient * 7, step)
    torch.testing.assert_close(adam(rows, gradient, 0), gradient.sign())


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_the_length_of_gradients_cancels_out_and_zero_stays_zero(scale: float) -> None:
    rows, gradient = Moments(), scale * torch.tensor([[3.0, -0.5, 0.0]])
    for step in range(5):
        direction = adam(rows, gradient, step)
    torch.testing.assert_close(direction, torch.tensor([[1.0, -1.0, 0.0]]))
