"""A question asked of an attack in two ways has one answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import AttackResult, AutoAttackResult, Status, autoattack
from fastadv.attacks.autoattack import VERSIONS
from fastadv.attacks.core import samples
from fastadv.attacks.core.judge import Judge
from fastadv.threat import THREATS, Through
from tests.attacks.contract.cases import NAMED, norm_of, options, wide
from tests.attacks.contract.conftest import (  # noqa: F401
    ONE_NORM,
    few_steps_of_autoattack,
    pytest_generate_tests,
)  # fmt: skip
from tests.attacks.nets import RADIUS, Case, images, labeled, labels, mlp, threat

ORDER = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])


class Asked:
    """An attack in one norm, asked about eight images of which one is wrong already."""

    def __init__(self, case: Case, norm: str, dtype: torch.dtype = torch.float64) -> None:
        self.case, self.norm, self.model, self.x = case, norm, mlp(dtype=dtype), images(8, dtype=dtype)
        self.threat, self.y = wide(case, norm), labels(self.model, self.x)
        self.y[6] = (self.y[6] + 1) % 3
        self.only = norm if case.name in ONE_NORM else None

    def __call__(self, rows: Any = slice(None), **changed: Any) -> AttackResult:
        arguments = {"x": self.x[rows], "y": self.y[rows], "ids": torch.arange(8)[rows]}
        arguments |= {"model": self.model, "threat": self.threat, **changed}
        if self.case.takes("indicators"):
            arguments["indicators"] = False
        return self.case(**arguments)


def in_other_batches(ask: Asked) -> AttackResult:
    """In another order, seven and one; the first of the seven is there twice."""
    seven, one, back = ask([*ORDER[:7].tolist(), int(ORDER[0])]), ask(ORDER[7:]), ORDER.argsort()
    torch.testing.assert_close(seven.x_adv[0], seven.x_adv[7], rtol=1e-6, atol=1e-6)
    x_adv, status = torch.cat([seven.x_adv[:7], one.x_adv]), torch.cat([seven.status[:7], one.status])
    return replace(seven, x_adv=x_adv[back], status=status[back])


def in_inference_mode(ask: Asked) -> AttackResult:
    """With a mask of ones, and numbers and labels of few bits."""
    with torch.inference_mode():
        mask, ids = torch.ones(4, 4, dtype=torch.bool), torch.arange(8, dtype=torch.int32)
        return ask(x=ask.x * 1, y=ask.y.to(torch.uint8), ids=ids, mask=mask)


def through_the_identity(ask: Asked) -> AttackResult:
    """Of volumes, to the bit."""
    volumes = ask.x.view(8, 2, 2, 2, 2)
    plain, out = ask(x=volumes), ask(x=volumes, threat=Through(lambda x, t: t, ask.threat, lambda x: x))
    for field in ("x_adv", "loss", "distance", "zero_gradient"):
        assert torch.equal(getattr(out, field), getattr(plain, field)), field
    assert torch.equal(out.parameters, out.x_adv)
    assert plain.parameters is None
    assert (out.forwards, out.backwards) == (plain.forwards, plain.backwards)
    return out


def in_units(ask: Asked, low: float, width: float) -> AttackResult:
    """Asked of a function, whose first gradient is a pass of its own, and without numbers."""
    threat = wide(ask.case, ask.norm, (low, low + width))
    model = lambda x: ask.model((x - low) / width)  # noqa: E731
    out = ask(model=model, x=low + width * ask.x, threat=threat, ids=None)
    return replace(out, x_adv=(out.x_adv - low) / width)


Way = Callable[[Asked], AttackResult]
EVERYWHERE: dict[str, Way] = {"other batches": in_other_batches}
TO_THE_BIT: dict[str, Way] = {"inference mode": in_inference_mode}
UNITS: dict[str, Way] = {
    "bytes": lambda ask: in_units(ask, 0.0, 255.0),
    "normalized": lambda ask: in_units(ask, -0.4242, 3.2457),
}
SHAPES: dict[str, Way] = {
    "the identity": through_the_identity,
    "vectors": lambda ask: ask(x=ask.x.flatten(1), model=fa.freeze(ask.model)),
}


@pytest.mark.slow
@pytest.mark.all_norms
def test_a_sample_stands_alone_and_other_words_change_nothing(case: Case, norm: str) -> None:
    """Each of the other ways in one norm alone."""
    ask = Asked(case, norm)
    plain = ask()
    assert plain.success.any()
    for words, way in {**EVERYWHERE, **TO_THE_BIT, **UNITS, **SHAPES}.items():
        if words not in EVERYWHERE and norm not in (norm_of(case, words), ask.only):
            continue
        out = way(ask)
        x_adv = out.x_adv.view_as(plain.x_adv)
        assert x_adv.isfinite().all(), words
        if words in SHAPES and case.name == "square":  # what it tries depends on which pixels are neighbors
            continue
        assert torch.equal(out.status, plain.status), words
        assert words not in TO_THE_BIT or torch.equal(x_adv, plain.x_adv), words
        same = (x_adv - plain.x_adv).abs().flatten(1).amax(1) < 1e-6
        # an L1 step goes to one coordinate, chosen by comparisons that the last bit of an uneven box can turn
        assert same.float().mean() >= (0.8 if norm == "l1" and words in UNITS else 1.0), words


@pytest.mark.slow
@pytest.mark.only(kind="budget")
def test_the_fast_way_is_the_general_one(case: Case, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 a kernel judges points by a loss, and several operations do otherwise."""
    ask = Asked(case, norm, torch.float32)
    plain = ask()
    monkeypatch.setattr(samples, "judge_for", lambda *about: Judge(*about[:3]))
    general = ask()
    assert torch.equal(general.status, plain.status)
    torch.testing.assert_close(general.x_adv, plain.x_adv, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_of_autoattack_leaves_a_sample_what_it_gets_alone(version: Any) -> None:
    """Each leaves some samples; the net hides its gradient where the first pixel is bright."""
    net, x = mlp(5), images(60)

    def model(x: Tensor) -> Tensor:
        return net(torch.where(x[:, :1, :1, :1] > 0.8, (x * 50).round() / 50, x))

    y, repeats = labels(model, x), {"eot": 1} if version == "rand" else {}

    def run(part: Tensor) -> AutoAttackResult:
        options = {"version": version, "indicators": False, "ids": part, **repeats}
        return autoattack(model, x[part], y[part], threat("linf"), **options)

    whole, places = run(torch.arange(60)), ORDER.repeat(8)[:60].argsort().split([1, 14, 45])
    assert 5 < int((whole.status == Status.HELD).sum()) < 55
    parts = [run(part) for part in places]
    for name, cost in whole.costs.items():
        assert cost.samples == sum(out.costs[name].samples for out in parts if name in out.costs)
    for part, out in zip(places, parts, strict=True):
        assert torch.equal(out.status, whole.status[part])
        assert list(out.by) == [whole.by[place] for place in part.tolist()]
        torch.testing.assert_close(out.x_adv, whole.x_adv[part], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["bim", "fgsm", "mim", "square"])
def test_a_ball_in_units_of_its_radius_is_the_ball(name: str) -> None:
    ask = Asked(NAMED[name], "linf")
    budgets = torch.full((1, 4, 4), float(ask.threat.radius), dtype=torch.float64)
    plain, out = ask(), ask(threat=fa.Scaled(budgets))
    torch.testing.assert_close(out.x_adv, plain.x_adv, rtol=0, atol=1e-12)
    torch.testing.assert_close(out.distance, plain.distance / float(ask.threat.radius))
    assert torch.equal(out.status, plain.status)


@pytest.mark.only(kind="budget")
def test_each_sample_has_its_radius(case: Case, norm: str) -> None:
    """And its step size; three in turn: of those who share one, the result is that under a number."""
    model, x, y = labeled(mlp(), images(6))
    y[0] = (y[0] + 1) % 3  # who leaves before the others begin
    radii = RADIUS[norm] * torch.tensor([0.0, 0.6, 3.0])
    radii = radii.ceil() if norm == "l0" else radii
    sizes = torch.tensor([1.0, 0.5, 0.2]) * radii.clamp_min(float(radii[1]))
    sizes = sizes.ceil() if norm == "l0" else sizes
    out = case(model, x, y, THREATS[norm](radii.repeat(2)), **options(case, step_size=sizes.repeat(2)))
    for first, (radius, size) in enumerate(zip(radii.tolist(), sizes.tolist(), strict=True)):
        some = torch.arange(first, 6, 3)
        alike = case(
            model, x[some], y[some], THREATS[norm](radius), ids=some, **options(case, step_size=size)
        )
        torch.testing.assert_close(alike.x_adv, out.x_adv[some], rtol=1e-6, atol=1e-6)
        assert torch.equal(alike.status, out.status[some])


NOISES = ("gaussian_noise", "uniform_noise", "salt_and_pepper")


@pytest.mark.only(kind="minimum")
def test_a_minimum_within_a_radius(case: Case, norm: str) -> None:
    """The radius decides what counts and steers nothing: a run in it is the free one, cut off there."""
    if case.name in NOISES:
        pytest.skip("its noises have the size of the radius until one succeeds: test_noise.py")
    model, x, y = labeled(mlp(), images(8))
    free = case(model, x, y, wide(case, norm))
    some = free.distance[free.success & free.distance.isfinite()]
    radius = float(some.median()) * 1.0001 if len(some) else 1.0
    # one radius for all, and one for each sample, of which the first is 0
    for radii in (radius, radius * torch.arange(8, dtype=torch.float64) / 5):
        threat = THREATS[norm](radii)
        out = case(model, x, y, threat)
        assert threat.contains(out.x_adv, x).all()
        inside = free.distance <= radii
        assert bool(inside.any() & ~inside.all())
        assert torch.equal(out.success, inside)
        assert torch.equal(out.distance, free.distance.where(inside, torch.inf))
        assert torch.equal(out.x_adv[inside], free.x_adv[inside])
        # two rows alone tell whether those that go back to x change the others
        assert out.forwards - free.forwards in (0, 2)
        assert out.backwards == free.backwards


@pytest.mark.slow
@pytest.mark.only(takes="loss")
def test_the_scale_of_a_loss_of_ones_own_changes_nothing(case: Case, norm: str) -> None:
    model, x, within = mlp(dtype=torch.float32), images(12, dtype=torch.float32), threat(norm)
    y = labels(model, x)

    def attacked(scale: float) -> AttackResult:
        def margin(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            return scale * (others - logits.gather(1, y[:, None]).squeeze(1))

        return case(model, x, y, within, loss=margin)

    plain = attacked(1.0)
    for scale in (1e-12, 1e12):
        scaled = attacked(scale)
        assert torch.equal(scaled.success, plain.success)
        torch.testing.assert_close(scaled.x_adv, plain.x_adv, rtol=0, atol=1e-5)
