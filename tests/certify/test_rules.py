"""The rules of decision: levels, charges, and what a certificate is of."""

import math
from dataclasses import replace

import pytest
import torch

import fastadv as fa
from fastadv.certify import audit, contradictions, smooth
from fastadv.certify.noise import Noise
from fastadv.certify.sequential import Fixed, Sequential, judge_of
from tests.certify.nets import SIGMA, halfspace, images

NOISE = Noise(SIGMA)
RULE = {"n": 100_000, "alpha": 1e-3, "radii": None, "sequential": True}


@pytest.mark.parametrize("norm", [fa.L2, fa.L1])
def test_a_hopeless_image_takes_few_draws(norm: type) -> None:
    judge, drawn = judge_of(Noise(SIGMA, norm), RULE), 0
    while more := judge.more(int(0.1 * drawn), drawn, 1e-6):
        drawn += more
    assert drawn < 100
    assert (judge.alpha, judge.n) == (1e-3, 100_000)


def test_what_the_noise_lacks_is_charged() -> None:
    fixed, several = Fixed(NOISE, 100, 1e-3), Sequential(NOISE, [0.25], 1000, 1e-3)
    assert fixed.radius(100, 100, 0.1) < fixed.radius(100, 100, 0)
    look = several.looks[-1]
    assert several.decisions(look, 0.1)[0].accept > several.decisions(look, 0)[0].accept
    assert Sequential(NOISE, [9.0], 100, 1e-3).radius(100, 100, 0.1) < Sequential(
        NOISE, [9.0], 100, 1e-3
    ).radius(100, 100, 0)


def test_all_hits_certify_what_the_paper_says() -> None:
    expected = NOISE.radius(1e-3 ** (1 / 50))
    assert math.isclose(Fixed(NOISE, 50, 1e-3).radius(50, 50, 0), expected, rel_tol=1e-9)


def test_every_element_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Noise, "charge", lambda self, elements: seen.append(elements) or 0.0)
    found = smooth(halfspace(), images(2), SIGMA, n=20)
    audit(found, [0])
    assert set(seen) == {16}
    assert len(seen) >= 2


def test_an_audit_is_of_the_same_noise() -> None:
    x, y = images(4)
    for more in ({"norm": fa.L1}, {"sound": False}):
        given = (x * 0.9 + 0.04 if "sound" in more else x, y)
        (one,) = audit(smooth(halfspace(), given, SIGMA, n=200, **more), [1])
        assert one.hits[0] == one.hits[1]


def test_predict_draws_noise_of_its_own() -> None:
    seen: list[torch.Tensor] = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach().flatten(1).clone())
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], dim=1)

    x, y = images(2)
    smooth(model, (x, y), SIGMA, n0=5, n=5, sequential=False)
    first = torch.cat([each for each in seen if len(each) > 1])
    seen.clear()
    fa.certify.predict(model, x, SIGMA, n=10)
    second = torch.cat([each for each in seen if len(each) > 1])
    assert not (first[:, None] == second[None]).all(2).any()


def test_an_abstention_and_a_draw_contradict_nothing() -> None:
    model, (x, y) = halfspace(), images(4)
    x = x.clone()
    x[0] = 128 / 255  # on the border
    found = smooth(model, (x, y), SIGMA, n=200)
    ids = torch.arange(4)
    flipped = replace(found, prediction=1 - found.prediction, abstained=torch.ones(4, dtype=torch.bool))
    assert contradictions(flipped, x, x, ids, model=model).numel() == 0
    forged = replace(found, radius=found.radius + 1, abstained=torch.zeros(4, dtype=torch.bool))
    assert contradictions(forged, x[:1], x[:1], ids[:1], model=model).numel() == 0


@pytest.mark.parametrize("alpha", [0.5, 0.7, 1e-16])
def test_alpha_that_bounds_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(fa.InputError, match="alpha"):
        smooth(halfspace(), images(2), SIGMA, n=10, alpha=alpha, sequential=False)
