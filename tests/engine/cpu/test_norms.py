"""Normalization of a single image, whatever the memory order of the image and of its gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import Plain
from fastadv.engine.cpu.norms import NORMS
from fastadv.engine.rewrite import Subject
from tests.engine.rewritten import answers
from tests.logged import Logged

pytestmark = pytest.mark.usefixtures("search_copy")
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
    made = WAYS[norm](leaf, **given)
    (found,) = torch.autograd.grad(made, leaf, gradient.contiguous(memory_format=above))
    exact = x.double().requires_grad_()
    expected = norm(exact, **wide(given))
    (slope,) = torch.autograd.grad(expected, exact, gradient.double())
    torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), slope, rtol=1e-4, atol=1e-5)


def test_all_else_is_left_to_torch() -> None:
    way, given = WAYS[F.batch_norm], CALLS["batch"][1]
    several, flat = torch.randn(2, 6, 5, 7, requires_grad=True), torch.randn(1, 6, requires_grad=True)
    assert way(several, **given) is NotImplemented
    assert way(flat, **given) is NotImplemented
    assert way(several[:1].detach(), **given) is NotImplemented
    with torch.no_grad():
        assert way(several[:1], **given) is NotImplemented


def test_the_result_is_no_view_that_an_activation_in_place_could_not_follow() -> None:
    leaf = torch.randn(1, 6, 5, 7, requires_grad=True)
    made = WAYS[F.batch_norm](leaf, **CALLS["batch"][1])
    F.relu(made, inplace=True).sum().backward()
    assert leaf.grad is not None


class Attending(nn.Module):
    """Attention over the pixels of a convolution that a BatchNorm follows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.Linear(32, 5)
        self.norm.running_mean.uniform_(-0.2, 0.2)
        self.norm.running_var.uniform_(0.2, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.fc(F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("order", [(1, 8, 3), (8, 1, 16)])
def test_attention_after_batch_norm_stays_folded(order: tuple[int, ...], logged: Logged) -> None:
    net = Attending().eval()
    frozen = fa.freeze(net)
    names: Any = None
    for count in order:
        x, y = torch.rand(count, 3, 12, 12), torch.arange(count) % 5
        found = frozen.input_gradient(x, y)[2]
        # of two equal rows torch's gradient is right, as finite differences tell; of one it is not
        twice = answers(net, torch.cat([x, x]), torch.cat([y, y]))[1][:count]
        torch.testing.assert_close(found, twice, rtol=1e-3, atol=1e-5)
        logits, rows = frozen.jacobian(x, torch.eye(5).expand(count, 5, 5))
        assert rows.shape == (count, 5, 3, 12, 12)
        torch.testing.assert_close(logits, net(x).detach(), rtol=1e-3, atol=1e-5)
        names = frozen.search.rewriting.names
    assert {"fold", "channels-last"} <= set(names)
    assert not logged.records


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("prepared", [Plain, fa.freeze, lambda net: Plain(lambda x: net(x))])
def test_a_single_row_gets_the_gradient_it_gets_in_a_batch(prepared: Any, order: torch.memory_format) -> None:
    net = Attending().eval()
    x, y = torch.rand(1, 3, 12, 12).contiguous(memory_format=order), torch.tensor([1])
    expected = answers(net, torch.cat([x, x]), torch.cat([y, y]))[1][:1]
    model = prepared(net)
    torch.testing.assert_close(model.input_gradient(x, y)[2], expected, rtol=1e-3, atol=1e-5)
    identity = torch.eye(5).expand(1, 5, 5)
    rows = model.jacobian(x, identity)[1]
    twice = model.jacobian(torch.cat([x, x]), identity.expand(2, 5, 5))[1][:1]
    torch.testing.assert_close(rows, twice, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model(x), net(x).detach())


def test_an_attack_on_one_image_climbs_its_own_loss() -> None:
    net = Attending().eval()
    x = torch.rand(1, 3, 12, 12)
    y = net(x).argmax(1)
    alone = fa.attacks.fgsm(net, x, y, fa.Linf(0.01))
    among = fa.attacks.fgsm(net, x.repeat(3, 1, 1, 1), y.repeat(3), fa.Linf(0.01))
    torch.testing.assert_close(alone.x_adv, among.x_adv[:1])
    assert not net.norm._forward_hooks
