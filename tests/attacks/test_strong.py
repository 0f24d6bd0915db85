"""AutoAttack "strong": its stages, and models that only it breaks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import AutoAttackResult, Status, apgd, autoattack
from fastadv.attacks.auto.run import Run
from fastadv.attacks.auto.versions import stages
from fastadv.attacks.autoattack import ATTACKS
from fastadv.attacks.core.problem import problem
from fastadv.attacks.core.trial import Trial
from fastadv.engine import freeze
from fastadv.threat import L1, L2, Linf, Threat

from .contract.conftest import shortened, spied
from .nets import images, labeled, labels, linear, mlp

pytestmark = pytest.mark.slow
FEW = {"apgd": {"steps": 10}, "fab": {"steps": 5}, "square": {"queries": 60}}
STAGES = ["restarts apgd-margin", "restarts apgd-ce-sharp", "targets apgd-t", "restarts square"]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in FEW.items():
        monkeypatch.setitem(ATTACKS, name, shortened(ATTACKS[name], few))


def run(model: Any, inside: Any, size: int = 12, **options: Any) -> tuple[AutoAttackResult, Tensor, Tensor]:
    x = images(size)
    y = labels(model, x)
    return autoattack(model, x, y, inside, version="strong", **options), x, y


def test_what_the_stages_are() -> None:
    """Restarts, steps and targets of the documentation."""

    def plan(classes: int, ball: type[Threat] = Linf, **given: Any) -> dict[str, dict[str, Any]]:
        model, x = freeze(linear(classes)), images(2, dtype=torch.float32)
        run = Run(Trial(model, problem(x, labels(model.model, x), ball(1e-6), **given)), 0)
        return {one.name: dict(one.arguments) for one in stages(run)}

    linf, t = plan(12), {"loss": "dlr-targeted", "steps": 100}
    assert linf == {
        "restarts apgd-margin": {"loss": "margin", "steps": 100, "restarts": 5},
        "restarts apgd-ce-sharp": {"loss": "ce_sharp", "steps": 100, "restarts": 5},
        "targets apgd-t": t | {"classes": 11, "nearest": False, "restarts": 2},
        "restarts square": {"queries": 5000},
    }
    for ball in (L1, L2):
        assert plan(12, ball) == linf | {"pdpgd": {"steps": 300}}
    assert plan(21)["targets apgd-t"] == t | {"classes": 20, "nearest": False, "restarts": 2}
    assert plan(40)["targets apgd-t"] == t | {"classes": 30, "nearest": True, "restarts": 2}
    y = labels(linear(12), images(2, dtype=torch.float32))
    assert set(linf) - set(plan(12, targets=(y + 1) % 12)) == {"targets apgd-t"}


def test_standard_comes_first_and_is_what_it_is_alone(
    few_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages follow on all that it left, with random draws of their own."""
    model, inside, calls = mlp(3), Linf(1e-6), spied(monkeypatch, "square")
    out, x, y = run(model, inside)
    seeds = {given["seed"] for _, given, _ in calls}
    alone = autoattack(model, x, y, inside)
    assert list(out.costs) == [*alone.costs, *STAGES]
    for name, cost in alone.costs.items():
        assert (cost.forwards, cost.broken) == (out.costs[name].forwards, out.costs[name].broken)
    assert torch.equal(out.x_adv, alone.x_adv)
    assert [out.costs[name].samples for name in STAGES] == [12] * len(STAGES)
    assert len(seeds) == 2
    assert out.notes == ()


def test_where_standard_leaves_nothing_it_adds_nothing(few_steps: None) -> None:
    out, x, y = run(mlp(4), Linf(1.0), size=4)
    alone = autoattack(mlp(4), x, y, Linf(1.0))
    assert out.success.all()
    assert (out.forwards, out.backwards) == (alone.forwards, alone.backwards)
    assert list(out.costs) == list(alone.costs)
    none = autoattack(mlp(4), x[:0], y[:0], Linf(1.0), version="strong")
    assert len(none.by) == 0


def test_an_ascent_may_start_anywhere() -> None:
    """The points are moved into the ball first; restarts begin at random ones."""
    model, x, y = labeled(mlp(3), images(5))
    starts = (x + 0.2).clamp(0, 1)
    for inside in (Linf(0.01), L2(0.05)):
        out = apgd(model, x, y, inside, steps=0, starts=starts)
        held = out.status == Status.HELD
        assert held.any()
        torch.testing.assert_close(out.x_adv[held], inside.project(starts, x)[held])
    once, thrice = (
        apgd(model, x, y, inside, steps=0, starts=starts, restarts=restarts, stop_early=False)
        for restarts in (1, 3)
    )
    assert not torch.equal(once.x_adv, thrice.x_adv)
    backwards = apgd(model, x.flip(0), y.flip(0), Linf(0.01), steps=4, starts=starts.flip(0))
    forwards = apgd(model, x, y, Linf(0.01), steps=4, starts=starts, ids=torch.arange(5).flip(0))
    torch.testing.assert_close(backwards.x_adv.flip(0), forwards.x_adv)
