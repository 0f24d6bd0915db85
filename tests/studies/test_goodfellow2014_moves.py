"""Directions of other images, and rotations: against loops by hand."""

import math

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from fastadv.studies.goodfellow2014 import moves
from fastadv.studies.goodfellow2014.moves import reuse, rotated, rotation
from tests.studies.goodfellow import INFINITE, digits, linear, reader, weights

SHAPE = (3, 5, 4)


def batch(n):
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, *SHAPE, generator=generator).double(), torch.randint(4, (n,), generator=generator)


def test_reuse_by_hand(monkeypatch):
    monkeypatch.setattr(moves, "OTHERS", 3)
    model, (x, y) = linear(SHAPE, seed=3, scale=0.3), batch(30)
    told = reuse(model, x, y, fa.Linf(0.1, INFINITE), seed=7)
    (w, b), flat = weights(model), x.flatten(1)
    sign = ((flat @ w.T + b).softmax(1) @ w - w[y]).sign()
    wrong: list[list[bool]] = []
    pairs: dict[bool, list[bool]] = {True: [], False: []}
    for draw in range(3):
        away = fa.rng.integers(29, fa.rng.derive(7, "reuse"), torch.arange(30), draw)
        wrong.append([])
        for i in range(30):
            j = (i + 1 + int(away[i])) % 30
            assert j != i
            broken = int((w @ (flat[i] + 0.1 * sign[j]) + b).argmax()) != int(y[i])
            wrong[-1].append(broken)
            pairs[int(y[i]) == int(y[j])].append(broken)
    assert told["pairs"] == 90
    assert told["draws"] == pytest.approx([sum(each) / 30 for each in wrong])
    assert told["error"] == pytest.approx(sum(sum(each) for each in wrong) / 90)
    assert told["same"] == pytest.approx(sum(pairs[True]) / len(pairs[True]))
    assert told["other"] == pytest.approx(sum(pairs[False]) / len(pairs[False]))
    own = ((flat + 0.1 * sign) @ w.T + b).argmax(1) != y
    assert told["own"] == pytest.approx(float(own.double().mean()))
    assert told["clean"] == pytest.approx(float(((flat @ w.T + b).argmax(1) != y).double().mean()))


@pytest.mark.slow
def test_a_net_loses_to_other_directions_and_small_rotations():
    data = digits()
    told = reuse(reader(), data.x, data.y, fa.Linf(0.25, INFINITE))
    assert told["clean"] < 0.15
    assert told["clean"] + 0.1 < told["error"] < told["own"] - 0.1
    straight, turned = rotation(reader(), data.x, data.y, [0, 20])["error"]
    assert turned > straight + 0.3


def test_one_label_alone_has_no_others():
    model, (x, _) = linear(SHAPE), batch(4)
    told = reuse(model, x, torch.ones(4, dtype=torch.long), fa.L2(0.5, INFINITE))
    assert told["other"] is None
    assert told["norm"] == "l2"
    with pytest.raises(InputError, match="x: expected two images or more"):
        reuse(model, x[:1], torch.ones(1, dtype=torch.long), fa.Linf(0.1))


@pytest.mark.parametrize("angle", [0.1, 1.0, math.pi / 2, 2.5])
def test_a_rotation_keeps_the_length_and_turns_by_the_angle_towards_the_gradient(angle):
    x, _ = batch(9)
    gradient = torch.randn_like(x) * 1e-200  # too small to be squared
    turned = rotated(x, gradient, angle)
    a, b, g = (each.flatten(1) for each in (x, turned, gradient * 1e200))
    torch.testing.assert_close(b.norm(dim=1), a.norm(dim=1))
    cosine = (a * b).sum(1) / a.norm(dim=1).square()
    torch.testing.assert_close(cosine, torch.full((9,), math.cos(angle)).double())
    # in the plane of both, on the gradient's side
    across = g - a * ((a * g).sum(1) / a.square().sum(1))[:, None]
    rest = b - math.cos(angle) * a
    torch.testing.assert_close((rest * across).sum(1), rest.norm(dim=1) * across.norm(dim=1))


def test_what_has_no_plane_stays():
    x, _ = batch(3)
    x[1] = 0
    gradient = torch.stack([torch.zeros_like(x[0]), torch.ones_like(x[1]), -3.7 * x[2]])
    assert torch.equal(rotated(x, gradient, 0.3), x)


def test_errors_by_angle_on_two_classes():
    """With two classes the decision at an angle follows from the angle between x and w."""
    model = linear(SHAPE, classes=2, seed=2, scale=0.3)
    (w, _), (x, _) = weights(model), batch(50)
    w = w[1] - w[0]
    model.linear.bias.data.zero_()
    flat = x.flatten(1)
    y = ((flat @ w) > 0).long()
    told = rotation(model, x, y, [0, 5, 20, 60])
    between = ((flat @ w).abs() / (flat.norm(dim=1) * w.norm())).clamp(max=1).asin()  # to the boundary
    for angle, error in zip(told["degrees"], told["error"], strict=True):
        assert error == pytest.approx(float((between < math.radians(angle)).double().mean()))
    assert told["error"][0] == 0
    assert told["error"][-1] == 1
    assert told["linf"] == sorted(told["linf"])
    assert told["linf"][0] == pytest.approx(0, abs=1e-12)
