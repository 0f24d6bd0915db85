"""`minimum_norm`: the least of its attacks, sample by sample, and what further steps buy."""

import sys
from itertools import pairwise
from math import inf
from typing import Any

import pytest
import torch

from fastadv import attacks
from fastadv.attacks import minimum_norm
from fastadv.threat import THREATS

from .nets import images, labeled, labels, mlp

MODULE = sys.modules["fastadv.attacks.minimum_norm"]
MEMBERS = {
    "linf": [("fmn", 2), ("fmn", 5), ("pdpgd", 5), ("fab", 3)],
    "l2": [("fmn", 2), ("ddn", 5), ("superdeepfool", 4), ("pdpgd", 5), ("fab", 3)],
    "l1": [("fmn", 2), ("fmn", 5), ("pdpgd", 5), ("fab", 3)],
    "l0": [("fmn", 2), ("fmn", 5), ("sigma_zero", 10), ("pdpgd", 5)],
}
# the gradients that these take together on three classes
FIRST = {"linf": 18, "l2": 26, "l1": 18, "l0": 22}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST": 2, "STEPS": 5, "PROJECTIONS": 3, "TURNS": 4}.items():
        monkeypatch.setattr(MODULE, name, value)


def attacked(norm: str, steps: int, radius: float = inf, classes: int = 3, **options: Any) -> Any:
    model, x = mlp(classes), images(24)
    return minimum_norm(model, x, labels(model, x), THREATS[norm](radius), steps=steps, **options)


@pytest.mark.slow
@pytest.mark.parametrize("norm", MEMBERS)
def test_each_sample_has_the_least_of_the_members(norm: str) -> None:
    model, x = mlp(), images(24)
    y, threat = labels(model, x), THREATS[norm](inf)
    alone = [getattr(attacks, name)(model, x, y, threat, steps=steps) for name, steps in MEMBERS[norm]]
    out = attacked(norm, FIRST[norm])
    distances = torch.stack([one.distance for one in alone])
    torch.testing.assert_close(out.distance, distances.amin(0), rtol=1e-6, atol=0)
    assert len(set(out.by)) > 1 or norm == "l0"
    for place, name in enumerate(out.by):
        nearest = int(distances[:, place].argmin())
        assert name == MEMBERS[norm][nearest][0]
        assert torch.equal(out.x_adv[place], alone[nearest].x_adv[place])
    assert out.backwards == 24 + sum(one.backwards for one in alone)  # and the gradient at x


@pytest.mark.slow
@pytest.mark.parametrize("norm", MEMBERS)
def test_more_steps_are_never_worse_and_buy_something(norm: str) -> None:
    outs = [attacked(norm, steps) for steps in (1, 2, 12, FIRST[norm], 200)]
    for fewer, more in pairwise(outs[1:]):
        assert (more.distance <= fewer.distance).all()
    assert outs[-1].distance.mean() < 0.999 * outs[3].distance.mean() or norm == "l0"
    assert [out.backwards for out in outs] == sorted(out.backwards for out in outs)
    assert outs[0].backwards == 2 * 24
    assert any(name.startswith(("restart", "target")) for name in outs[-1].by)


@pytest.mark.slow
def test_who_is_wrong_already_or_beyond_the_radius_has_nobody_named() -> None:
    model, x, y = labeled(mlp(), images(8))
    y[::2] = (y[::2] + 1) % 3
    whole = minimum_norm(model, x, y, THREATS["l2"](inf), steps=40)
    assert [bool(name) for name in whole.by] == [False, True] * 4
    middle = float(whole.distance[1::2].median())
    within = minimum_norm(model, x, y, THREATS["l2"](middle), steps=40)
    near = (whole.distance <= middle).tolist()
    assert within.by == tuple(name if met else "" for name, met in zip(whole.by, near, strict=True))
