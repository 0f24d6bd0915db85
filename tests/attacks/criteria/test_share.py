"""Share by hand on an image of two by two positions, and what other libraries got wrong."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastadv.attacks import Share, WrongBy
from fastadv.attacks.core.judge import ranked

# three classes; position (0, 0) is wrong, (1, 1) is ignored, the others are right
Z = torch.tensor(
    [[[2.0, 1.0], [0.5, 9.0]], [[1.0, 1.5], [-1.0, 0.0]], [[0.0, -2.0], [0.25, 3.0]]], dtype=torch.float64
)[None]
Y = torch.tensor([[[1, 1], [0, 255]]])
TARGETS = torch.tensor([[[0, 2], [2, 255]]])  # reached at (0, 0)
SHARE = Share(0.5, ignore=255)


def by_hand(labels: Tensor) -> tuple[Any, Any, Any, Any, float]:
    """Softmax [3, 3] of the three positions that count, classes, cross-entropies, margins, and the unit."""
    z = Z[0].numpy().reshape(3, 4)[:, :3]
    y = labels[0].numpy().reshape(4)[:3]
    margins = np.array([max(np.delete(z[:, i], y[i])) for i in range(3)]) - z[y, range(3)]
    unit = 0.15 * abs(margins).mean()
    p = np.exp(z / unit) / np.exp(z / unit).sum(0)
    return p, y, -np.log(p[y, range(3)]), margins, unit


def divergence(p: Any, y: int) -> float:
    middle = (p + np.eye(3)[y]) / 2
    return float((p * np.log(p / middle)).sum() / 2 + np.log(1 / middle[y]) / 2)


def expected(loss: str, targets: bool) -> float:
    p, y, ce, margins, unit = by_hand(TARGETS if targets else Y)
    sign = -1 if targets else 1
    masked = np.array([0.0 if targets else np.log(3), ce[1], ce[2]])
    values = {
        "ce": ce.mean(),
        "cospgd": ce.mean(),
        "masked_ce": masked.mean(),
        # classes 1, 1, 0; of the targets 0, 2, 2
        "balanced_ce": (masked[0] + (masked[1] + masked[2]) / 2) / 2
        if targets
        else ((masked[0] + masked[1]) / 2 + masked[2]) / 2,
        "js": np.mean([divergence(p[:, i], y[i]) for i in range(3)]),
    }
    if loss == "margin":  # two of three: the largest is met, the second is lacking
        return float(np.sort(-margins if targets else margins)[1]) / 2
    if loss == "bounded_margin":  # two of three must be wrong
        m = sign * margins
        m = m / min(abs(np.sort(m)[1]), unit)
        return float(np.where(m > 0, 0.5, 1) @ (m / (1 + abs(m)))) / 3
    return sign * float(values[loss])


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("loss", Share.losses)
def test_values(loss: str, targets: bool) -> None:
    value = SHARE.loss(loss)(Z, Y, TARGETS if targets else None)  # type: ignore[operator]
    assert float(value) == pytest.approx(expected(loss, targets), abs=1e-12)


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("loss", ["ce", "masked_ce", "cospgd"])
def test_weights_of_positions(loss: str, targets: bool) -> None:
    """Each is that of the cross-entropy's gradient there."""
    z = Z.clone().requires_grad_()
    SHARE.loss(loss)(z, Y, TARGETS if targets else None).sum().backward()  # type: ignore[operator]
    p, y, _, _, unit = by_hand(TARGETS if targets else Y)
    cosine = p[y, range(3)] / np.sqrt((p**2).sum(0))
    weight = {
        "ce": np.ones(3),
        "masked_ce": np.array([0, 1, 1]),
        "cospgd": 1 - cosine if targets else cosine,
    }[loss]
    gradient = (-1 if targets else 1) * weight * (p - np.eye(3)[y].T) / 3 / unit
    assert z.grad is not None
    np.testing.assert_allclose(z.grad[0].numpy().reshape(3, 4)[:, :3], gradient, atol=1e-12)
    assert (z.grad[0, :, 1, 1] == 0).all()


def test_what_is_met_and_what_ranks() -> None:
    assert Share(1 / 3, ignore=255).met(Z, Y, None).all()
    assert not Share(0.34, ignore=255).met(Z, Y, None).any()
    assert not Share(0.2, of=WrongBy(1.5), ignore=255).met(Z, Y, None).any()
    hundred = torch.where(torch.arange(100) < 7, -1.0, 1.0).view(1, 1, 100)
    for share, met in ((0.07, True), (0.071, False)):  # 7 of 100, whatever 0.07 * 100 rounds to
        assert Share(share).met(torch.cat([hundred, 0 * hundred], 1), torch.zeros(1, 100).long(), None) == met
    met, needed = SHARE.decisions(Z, Y, None)
    assert (met.tolist(), needed.tolist()) == ([1], [2])
    for value in (-1e9, 0.0, 1e9):  # the loss decides between equal counts alone
        assert 1 <= float(ranked(torch.tensor([value]), met)) <= 2


def test_one_channel_is_two() -> None:
    z, y = torch.randn(2, 1, 3, 3), torch.randint(0, 2, (2, 3, 3))
    two = torch.cat([torch.zeros_like(z), z], 1)
    for name in Share.losses:
        loss = Share(0.5).loss(name)
        assert torch.equal(loss(z, y, None), loss(two, y, None))  # type: ignore[operator]
        assert torch.equal(loss(z[:, 0], y, None), loss(two, y, None))  # type: ignore[operator]


@pytest.mark.parametrize("far", [1e3, 1e30])
def test_losses_where_a_softmax_underflows(far: float) -> None:
    """Others' JS is NaN at a probability of 0."""
    z = torch.tensor([[[far], [0.0]]], requires_grad=True)
    for name in Share.losses:
        for label in (0, 1):
            value = Share(1.0).loss(name)(z, torch.tensor([[label]]), None)  # type: ignore[operator]
            (gradient,) = torch.autograd.grad(value.sum(), z)
            assert value.isfinite().all(), name
            assert gradient.isfinite().all(), name
