"""AutoAttack "strong": its stages, and models that only it breaks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AutoAttackResult, Status, apgd, autoattack
from fastadv.attacks.auto.run import Run
from fastadv.attacks.auto.versions import elsewhere, stages
from fastadv.attacks.autoattack import ATTACKS
from fastadv.attacks.core.problem import problem
from fastadv.attacks.core.trial import Trial
from fastadv.attacks.masking import probes
from fastadv.engine import freeze
from fastadv.errors import InputError
from fastadv.models import bpda
from fastadv.threat import L1, L2, Linf, Threat
from tests.defenses import Quantize

from .contract.conftest import shortened, spied
from .nets import images, labeled, labels, linear, mlp, threat

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
        return {one.name: dict(one.arguments) for one in stages(run, model)}

    linf, t = plan(12), {"loss": "dlr-targeted", "steps": 100}
    assert linf == {
        "bpda apgd-ce": {"loss": "ce", "steps": 100},
        "bpda apgd-margin": {"loss": "margin", "steps": 100},
        "bpda apgd-t": t | {"classes": 9},
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
    assert set(linf) - set(plan(12, targets=(y + 1) % 12)) == {"bpda apgd-t", "targets apgd-t"}


def test_the_verdict_is_about_the_model_that_was_attacked_through_bpda(few_steps: None) -> None:
    """Where that shows no sign; it says what the model itself raised, and which modules were replaced."""
    inside, masked = Linf(0.08), nn.Sequential(Quantize(16), mlp(3))
    alone, _, _ = run(masked, inside, size=40)
    assert alone.verdict.startswith("Do not trust: zero_gradient, incorrect_gradient")
    out, _, _ = run(masked, inside, size=40, bpda=bpda(masked, {"0": "identity"}))
    found = out.indicators
    assert found is not None
    assert found.clean
    assert found.verdict.startswith("Masked gradients (zero_gradient, incorrect_gradient")
    told = ", attacked through BPDA: 0 (identity): no sign of masking there (8 samples probed)"
    assert found.verdict.endswith(told)
    assert found.values["square"] <= 0.01 < found.without["square"]
    spent = found.forwards + found.backwards
    assert found.samples >= 8
    assert spent <= max(0.05 * (out.forwards + out.backwards), 16 * (probes.HELD + probes.CHECKED))
    useless = bpda(masked, {"0": lambda x: -x})
    wrong, _, _ = run(masked, inside, size=40, bpda=useless)
    assert wrong.verdict.startswith("Do not trust: ")
    assert wrong.indicators.through == "BPDA: 0 (<lambda>)"


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


def test_the_passes_of_the_other_model_are_counted() -> None:
    model, other, x = freeze(mlp(4)), freeze(mlp(4)), images(8)
    out = elsewhere(model, x, labels(mlp(4), x), threat("linf"), other=other, seed=0, steps=3)
    assert (model.forwards, model.backwards) == (out.forwards, out.backwards)
    assert out.backwards > 0


def test_bpda_breaks_what_is_masked_and_the_model_judges(few_steps: None) -> None:
    """The stage that broke a sample is named."""
    masked, inside = nn.Sequential(Quantize(50), mlp(4)), threat("linf", 2)
    without = autoattack(masked, images(12), labels(masked, images(12)), inside)
    out, x, y = run(masked, inside, bpda=bpda(masked, {"0": "identity"}))
    assert out.by.count("bpda apgd-ce") > 0
    assert int(out.success.sum()) > int(without.success.sum())
    assert torch.equal(out.success, labels(masked, out.x_adv) != y)
    assert inside.contains(out.x_adv, x).all()
    # the passes of the other model are counted
    cost = out.costs["bpda apgd-ce"]
    assert cost.backwards > 0
    assert out.backwards >= sum(cost.backwards for cost in out.costs.values())
    assert out.forwards > sum(cost.forwards for cost in out.costs.values())


def test_another_model_averages_as_many_passes(few_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, through, calls = mlp(3), mlp(3), spied(monkeypatch, "apgd")
    run(model, Linf(1e-6), size=2, bpda=through, eot=3)
    seen = [(args[0], given["seed"]) for args, given, _ in calls]
    assert [net.eot for net, _ in seen if net.source is through] == [3, 3, 3]
    others = [seed for net, seed in seen if net.source is not through]
    assert len(set(others)) == len(others)


def test_where_standard_leaves_nothing_it_adds_nothing(few_steps: None) -> None:
    out, x, y = run(mlp(4), Linf(1.0), size=4)
    alone = autoattack(mlp(4), x, y, Linf(1.0))
    assert out.success.all()
    assert (out.forwards, out.backwards) == (alone.forwards, alone.backwards)
    assert list(out.costs) == list(alone.costs)
    none = autoattack(mlp(4), x[:0], y[:0], Linf(1.0), version="strong", bpda=mlp(3))
    assert len(none.by) == 0


def test_other_models_must_fit() -> None:
    model, x, y = labeled(mlp(3), images(4))

    def refused(message: str, **given: Any) -> None:
        with pytest.raises(InputError, match=message):
            autoattack(model, x, y, L2(0.1), version="strong", **given)

    refused("bpda: expected a net with the 3 classes", bpda=mlp(2))
    refused("bpda: expected the decisions of the model .* got others on [1-4] of 4", bpda=mlp(3, seed=5))
    refused("model: expected", bpda=3)


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
