"""The nearest-neighbor baseline against its definition."""

import pytest
import torch

from fastadv.attacks import pgd
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.models import NearestNeighbor
from fastadv.threat import L2


def made(count=40):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    y[5:9] = 1  # classes of unequal size
    return torch.rand(count, 1, 5, 5, generator=g), y


def test_logits_are_minus_the_least_distances():
    x, y = made()
    model = NearestNeighbor(x, y)
    z = torch.rand(7, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    distance = (z[:, None] - x).flatten(2).norm(dim=2)
    expected = torch.stack([distance[:, y == k].amin(1) for k in range(3)], 1)
    torch.testing.assert_close(model(z), -expected)
    assert torch.equal(model(x).argmax(1), y)
    assert model(z[:0]).shape == (0, 3)


def test_attacks_follow_its_gradient():
    x, y = made()
    model = NearestNeighbor(x, y)
    out = pgd(model, x[:10], y[:10], L2(2.0), steps=20, step_size=0.3)
    assert out.success.float().mean() > 0.5
    leaf = (x[:4] + 0.01).requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), torch.ones(4))


def test_any_set_will_do():
    x, y = made()
    by_set = NearestNeighbor.fit(ImageSet((x * 255).byte(), y, 3, "made"))
    torch.testing.assert_close(by_set(x), NearestNeighbor((x * 255).byte().float() / 255, y)(x))


def test_bad_input():
    x, y = made()
    for bad, word in (
        ((x, y[:-1]), "labels"),
        ((x.byte(), y), "floating"),
        ((x, y * 2), "every class"),
        ((x, y - 1), "every class"),
        ((x[:0], y[:0]), "N"),
    ):
        with pytest.raises(InputError, match=word):
            NearestNeighbor(*bad)
    with pytest.raises(InputError, match="shape"):
        NearestNeighbor(x, y)(torch.rand(2, 1, 4, 4))
