"""Where gradients lead, noise taken for a class, logistic regression and the panda: by hand."""

import math

import pytest
import torch
from torch.nn.functional import softplus

import fastadv as fa
from papers.goodfellow2014 import logistic as study
from papers.goodfellow2014 import models, paper
from papers.goodfellow2014.figures import shown
from papers.goodfellow2014.panda import panda
from papers.goodfellow2014.paper import reuse, rotation, trace
from papers.goodfellow2014.recipes import RobustLogistic, WeightDecayL1

INFINITE = (-torch.inf, torch.inf)


def linear(shape, classes=4, seed=0, scale=0.1):
    """Softmax regression with random weights, in float64."""
    model = fa.models.create("softmax", shape=shape, classes=classes).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model


def weights(model):
    return model.linear.weight.detach(), model.linear.bias.detach()


SHAPE = (3, 5, 4)


def batch(n):
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, *SHAPE, generator=generator).double(), torch.randint(4, (n,), generator=generator)


def test_reuse_by_hand(monkeypatch):
    monkeypatch.setattr(paper, "OTHERS", 3)
    model, (x, y) = linear(SHAPE, seed=3, scale=0.3), batch(30)
    found = reuse(model, x, y, fa.Linf(0.1, INFINITE), seed=7)
    (w, b), flat = weights(model), x.flatten(1)
    sign = ((flat @ w.T + b).softmax(1) @ w - w[y]).sign()
    wrong = 0
    for draw in range(3):
        away = fa.rng.integers(29, fa.rng.derive(7, "reuse"), torch.arange(30), draw)
        for i in range(30):
            j = (i + 1 + int(away[i])) % 30
            assert j != i
            wrong += int((w @ (flat[i] + 0.1 * sign[j]) + b).argmax()) != int(y[i])
    assert found == pytest.approx(wrong / 90)


def test_errors_by_angle_on_two_classes():
    """With two classes the decision at an angle follows from the angle between x and w."""
    model = linear(SHAPE, classes=2, seed=2, scale=0.3)
    (w, _), (x, _) = weights(model), batch(50)
    w = w[1] - w[0]
    model.linear.bias.data.zero_()
    flat = x.flatten(1)
    y = ((flat @ w) > 0).long()
    degrees = [0, 5, 20, 60]
    errors = rotation(model, x, y, degrees)
    between = ((flat @ w).abs() / (flat.norm(dim=1) * w.norm())).clamp(max=1).asin()  # to the boundary
    for angle, error in zip(degrees, errors, strict=True):
        assert error == pytest.approx(float((between < math.radians(angle)).double().mean()))
    assert (errors[0], errors[-1]) == (0, 1)


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 6, 9)], ids=["gray", "color"])
def test_a_linear_model_in_closed_form(shape):
    model, x = linear(shape, classes=2, seed=3), torch.rand(shape).double()
    w, b = weights(model)
    clean = w @ x.flatten() + b
    y = int(clean.argmax())
    away = w[1 - y] - w[y]
    radii, logits, images = trace(model, x, y)
    assert [radii[0], radii[300], radii[-1], len(radii)] == [-15, 0, 15, 601]
    torch.testing.assert_close(images, x + radii[shown(radii)].view(-1, 1, 1, 1) * away.sign().view(shape))
    wanted = clean + radii[:, None] * (w @ away.sign())
    torch.testing.assert_close(logits, wanted)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_shares_by_hand(kind, monkeypatch):
    monkeypatch.setattr(paper, "BATCH", 7)  # the parts do not show
    plain = linear(SHAPE, seed=3)
    plain.linear.bias.data -= 0.5  # of no effect on softmax
    model = plain if kind == "softmax" else models.Sigmoids(plain)
    told = paper.rubbish(model, SHAPE, samples=50, seed=5)
    x = paper.noise(SHAPE, torch.arange(50), seed=5).double()
    logits = plain(x).detach()
    chances = logits.softmax(1) if kind == "softmax" else logits.sigmoid()
    wrong = chances.amax(1) > 0.5
    assert 3 < wrong.sum() < 47
    assert told["error"] == float(wrong.double().mean())
    assert told["confidence"] == pytest.approx(float(chances.amax(1)[wrong].mean()))
    each = [float((chances.argmax(1)[wrong] == k).double().mean()) for k in range(4)]
    assert told["classes"] == pytest.approx(each)
    assert len(set(each)) > 1


@pytest.mark.parametrize("threat", [fa.Linf(0.3, INFINITE), fa.L2(1.5, INFINITE)], ids=["sign", "gradient"])
def test_the_step_towards_a_class_of_two_in_closed_form(threat):
    """Of two classes the gradient of log p(i) is along w_i - w_j, by which the logits part."""
    model = linear(SHAPE, classes=2, seed=1)
    found = paper.fooling(model, SHAPE, threat, classes=2, samples=60, seed=2)
    (w, b), x = weights(model), paper.noise(SHAPE, torch.arange(60), 2).double().flatten(1)
    for target in range(2):
        apart, start = w[target] - w[1 - target], b[target] - b[1 - target]
        gain = threat.radius * apart.norm(1 if isinstance(threat, fa.Linf) else 2)
        before = x @ apart + start
        wanted = ((before + gain).sigmoid() >= 0.5).double().mean()
        assert found[target] == float(wanted) > float((before.sigmoid() >= 0.5).double().mean())


def test_a_row_by_hand():
    train_set, test_set = (fa.data.load("digits", split).only([3, 7]) for split in ("train", "test"))
    model = fa.models.LogisticRegression((1, 8, 8), seed=4).double()
    with torch.no_grad():
        model.linear.weight.mul_(8)
    w, b = model.linear.weight[0].detach(), model.linear.bias.item()
    ball = fa.Linf(0.1, (-math.inf, math.inf))

    def margins(data):
        return (data.x.flatten(1).double() @ w + b) * (2 * data.y - 1)

    row = study._row(model, RobustLogistic(ball), train_set, test_set, ball)
    norm, margin = w.abs().sum(), margins(train_set)
    assert row["norm"] == pytest.approx(float(norm))
    assert row["margin"] == pytest.approx(float(margin.mean()))
    # the derivative by |w|_1, by finite differences
    more = softplus(0.1 * (norm + 1e-6) - margin).mean() - softplus(0.1 * norm - margin).mean()
    assert row["pull"] == pytest.approx(float(more) / 1e-6, rel=1e-4)
    tested = margins(test_set)
    assert row["clean"] == pytest.approx(float((tested <= 0).double().mean()))
    assert row["fgsm"] == pytest.approx(float((tested <= 0.1 * norm).double().mean()))
    decay = study._row(model, WeightDecayL1(0.3), train_set, test_set, ball)
    assert decay["pull"] == 0.3


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 6, 9)], ids=["gray", "color"])
def test_the_arithmetic_on_a_linear_model(shape):
    model = linear(shape, seed=3)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    w, b = weights(model)
    logits = w @ x.flatten().double() + b
    y = int(logits.argmax())
    gradient = (logits.softmax(0) @ w - w[y]).view(shape)  # of the cross-entropy
    sign = gradient.sign().float()
    images = (x, (sign + 1) / 2, (x + 0.3 * sign).clamp(0, 1))
    names = ["cat", "dog", "panda", "gibbon"]
    told, made = panda(model, x, radius=0.3, names=names)
    for part, image in zip(("clean", "sign", "adversarial"), images, strict=True):
        chances = (w @ image.flatten().double() + b).softmax(0)
        assert told[part]["class"] == int(chances.argmax())
        assert told[part]["name"] == names[int(chances.argmax())]
        assert told[part]["confidence"] == pytest.approx(float(chances.max()), rel=1e-5)
    assert told["radius"] == 0.3
    assert told["fooled"] == (told["clean"]["class"] != told["adversarial"]["class"])
    torch.testing.assert_close(made, torch.stack(images))
