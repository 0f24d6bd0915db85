"""Normalization of a single image, whatever the memory order of the image and of its gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine.cpu.norms import NORMS
from fastadv.engine.rewrite import Subject

WAYS = NORMS.ways(Subject(nn.Identity(), torch.float32))
MEAN, VAR = torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6)
CALLS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "batch": (F.batch_norm, {"running_mean": MEAN, "running_var": VAR}),
    "batch, its own statistics": (
        F.batch_norm,
        {"running_mean": None, "running_var": None, "training": True},
    ),
    "instance": (F.instance_norm, {}),
}


def wide(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value.double() if isinstance(value, Tensor) else value for name, value in given.items()}


@pytest.mark.parametrize("above", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_gradients_in_any_memory_order(name: str, order: Any, above: Any) -> None:
    norm, given = CALLS[name]
    torch.manual_seed(0)
    x, gradient = torch.randn(1, 6, 5, 7), torch.randn(1, 6, 5, 7)
    leaf = x.contiguous(memory_format=order).requires_grad_()
    made = WAYS[norm].run(leaf, **given)
    (found,) = torch.autograd.grad(made, leaf, gradient.contiguous(memory_format=above))
    exact = x.double().requires_grad_()
    expected = norm(exact, **wide(given))
    (slope,) = torch.autograd.grad(expected, exact, gradient.double())
    torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), slope, rtol=1e-4, atol=1e-5)


def test_all_else_is_left_to_torch() -> None:
    way, given = WAYS[F.batch_norm].run, CALLS["batch"][1]
    several, flat = torch.randn(2, 6, 5, 7, requires_grad=True), torch.randn(1, 6, requires_grad=True)
    assert way(several, **given) is NotImplemented
    assert way(flat, **given) is NotImplemented
    assert way(several[:1].detach(), **given) is NotImplemented
    with torch.no_grad():
        assert way(several[:1], **given) is NotImplemented


def test_the_result_is_no_view_that_an_activation_in_place_could_not_follow() -> None:
    leaf = torch.randn(1, 6, 5, 7, requires_grad=True)
    made = WAYS[F.batch_norm].run(leaf, **CALLS["batch"][1])
    F.relu(made, inplace=True).sum().backward()
    assert leaf.grad is not None
