"""Noise that is taken for a class: shares counted by hand, the step in closed form, and the gallery."""

import pytest
import torch

import fastadv as fa
from fastadv.studies.goodfellow2014 import rubbish as study
from tests.studies.goodfellow import INFINITE, linear, weights

SHAPE = (3, 5, 4)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_shares_by_hand(kind, monkeypatch):
    monkeypatch.setattr(study, "BATCH", 7)  # the parts do not show
    plain = linear(SHAPE, seed=3)
    plain.linear.bias.data -= 0.5  # of no effect on softmax
    model = plain if kind == "softmax" else fa.models.Sigmoids(plain)
    told = study.rubbish(model, SHAPE, samples=50, seed=5)
    x = study.noise(SHAPE, torch.arange(50), seed=5).double()
    logits = plain(x).detach()
    chances = logits.softmax(1) if kind == "softmax" else logits.sigmoid()
    wrong = chances.amax(1) > 0.5
    assert 3 < wrong.sum() < 47
    assert told["error"] == float(wrong.double().mean())
    assert told["confidence"] == pytest.approx(float(chances.amax(1)[wrong].mean()))
    each = [float((chances.argmax(1)[wrong] == k).double().mean()) for k in range(4)]
    assert told["classes"] == pytest.approx(each)
    assert len(set(each)) > 1


def test_the_noise_is_normal_fresh_for_each_id_and_seed():
    one, two = (study.noise(SHAPE, torch.arange(500), seed) for seed in (0, 1))
    assert one.shape == (500, *SHAPE)
    assert abs(one.mean()) < 0.02
    assert one.std() == pytest.approx(1, abs=0.02)
    assert not torch.equal(one, two)
    assert len(one.flatten(1).unique(dim=0)) == 500
    assert torch.equal(study.noise(SHAPE, torch.tensor([9, 4])), one[[9, 4]])


def test_a_model_that_denies_all_noise_has_no_error():
    model = fa.models.create("rbf", shape=SHAPE, classes=4)
    with torch.no_grad():
        model.scales.fill_(3.0)
    told = study.rubbish(model, SHAPE, samples=30)
    assert told == {"samples": 30, "error": 0.0, "confidence": None, "classes": [0.0] * 4}


@pytest.mark.parametrize("threat", [fa.Linf(0.3, INFINITE), fa.L2(1.5, INFINITE)], ids=["sign", "gradient"])
def test_the_step_towards_a_class_of_two_in_closed_form(threat):
    """Of two classes the gradient of log p(i) is along w_i - w_j, by which the logits part."""
    model = linear(SHAPE, classes=2, seed=1)
    told = study.fooling(model, SHAPE, threat, classes=2, samples=60, seed=2)
    (w, b), x = weights(model), study.noise(SHAPE, torch.arange(60), 2).double().flatten(1)
    for target in range(2):
        apart, start = w[target] - w[1 - target], b[target] - b[1 - target]
        gain = threat.radius * apart.norm(1 if isinstance(threat, fa.Linf) else 2)
        before = x @ apart + start
        wanted = ((before + gain).sigmoid() >= 0.5).double().mean()
        assert told["success"][target] == float(wanted)
        assert told["at_once"][target] == float((before.sigmoid() >= 0.5).double().mean())
    assert told["mean"] == pytest.approx(sum(told["success"]) / 2)
    assert told["at_once"] < told["success"]


def test_sigmoids_are_led_by_their_own_probability():
    """log sigmoid of one logit: the others have no part, and its own weights give the step."""
    plain = linear(SHAPE, seed=4)
    model, threat = fa.models.Sigmoids(plain), fa.Linf(0.2, INFINITE)
    told = study.fooling(model, SHAPE, threat, classes=4, samples=40)
    (w, b), x = weights(plain), study.noise(SHAPE, torch.arange(40)).double().flatten(1)
    for target in range(4):
        x_adv = x + 0.2 * w[target].sign()
        logits, clean = x_adv @ w.T + b, x @ w.T + b
        sure = (logits.argmax(1) == target) & (logits[:, target] >= 0)
        already = (clean.argmax(1) == target) & (clean[:, target] >= 0)
        assert told["success"][target] == float((sure | already).double().mean())


def test_the_gallery_shows_what_the_step_led_to():
    model, threat = linear(SHAPE, classes=2, seed=1), fa.Linf(0.1, INFINITE)
    (w, b), x = weights(model), study.noise(SHAPE, torch.arange(10), 3).double()
    kept = study.rows(model, SHAPE, threat, ["cat", "dog"], seed=3)
    assert [strip.name for strip in kept] == ["cat", "dog"]
    for target, strip in enumerate(kept):
        apart, start = w[target] - w[1 - target], b[target] - b[1 - target]
        before = x.flatten(1) @ apart + start
        moved = torch.where(before.sigmoid() >= 0.5, 0, 0.1)  # what is sure already stays
        chances = (before + moved * apart.norm(1)).sigmoid()
        assert strip.captions == [f"{p:.0%}" for p in chances.tolist()]
        assert strip.marked.tolist() == (chances >= 0.5).tolist()
        x_adv = x + moved.view(-1, 1, 1, 1) * apart.sign().view(SHAPE)
        torch.testing.assert_close(strip.images, (x_adv / 6 + 0.5).clamp(0, 1).float())
