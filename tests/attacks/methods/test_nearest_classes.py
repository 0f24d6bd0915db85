"""The order of classes by distance, against that of half-spaces, where it is exact."""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import core
from fastadv.attacks.methods import nearest_classes as module
from fastadv.attacks.methods.nearest_classes import nearest_classes
from fastadv.threat import THREATS

from ..nets import images, labels, linear

DUAL = {"linf": 1, "l2": 2, "l1": inf}


def order_found(model: Any, x: Tensor, y: Tensor, norm: str, **common: Any) -> Tensor:
    found = []

    def rule(search: core.Search) -> None:
        found.append(nearest_classes(search))

    out = core.run(model, x, y, THREATS[norm](0.1), rule, **common)
    assert out.backwards == found[0].numel()
    return found[0]


@pytest.mark.parametrize(("norm", "classes"), [("linf", 12), ("l2", 12), ("l1", 12), ("l2", 150)])
def test_the_order_is_that_of_the_distances(norm: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than 100 classes, those with the largest logits take part. A mask holds pixels."""
    monkeypatch.setattr(module, "CHUNK", 2 * 100 * classes)
    net = linear(classes).double()
    x, weight = images(5), net[1].weight.detach()
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, 1:] = True
    logits, y = net(x).detach(), labels(net, x)
    found = order_found(net, x, y, norm, mask=mask)
    assert found.shape == (5, min(100, classes - 1))
    for row, own in enumerate(y.tolist()):
        others = logits[row].argsort(descending=True)[1:][:100]
        normals = (weight[others] - weight[own]) * mask.flatten()
        distance = (logits[row, own] - logits[row, others]) / torch.linalg.vector_norm(
            normals, DUAL[norm], dim=1
        )
        assert found[row].tolist() == others[distance.argsort()].tolist()


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_gradients_are_not_rounded_to_the_format_of_x(scale: float) -> None:
    """In float16 their norms would be zero or infinite."""
    net, x = linear(6), images(8, dtype=torch.float16)
    y = labels(net, x.float())
    expected = order_found(net, x.float(), y, "l2")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
    assert torch.equal(order_found(net, x, y, "l2"), expected)


def test_a_class_without_a_gradient_comes_last_and_one_without_a_gap_first() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            value = x.flatten(1).sum(1)
            flat = 0 * value
            return torch.stack([value, flat + value - 1, 0.5 * value, value - 1e-30], 1)

    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    # class 1 moves as the label does, and class 3 has neither gap nor gradient
    assert order_found(Odd(), x, torch.tensor([0]), "l2").tolist() == [[3, 2, 1]]
