"""AutoAttack "strong": its stages, its budget, and models that only it breaks."""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AutoAttackResult, Status, apgd, autoattack
from fastadv.attacks.auto import strong
from fastadv.attacks.auto.run import Run
from fastadv.attacks.auto.strong import LOOK, stages
from fastadv.attacks.autoattack import ATTACKS
from fastadv.attacks.core.problem import problem
from fastadv.attacks.core.trial import Trial
from fastadv.attacks.masking import probes
from fastadv.engine import freeze
from fastadv.errors import InputError
from fastadv.models import bpda
from fastadv.threat import L1, L2, Linf, Threat
from tests.defenses import Quantize

from .contract.conftest import shortened
from .nets import images, labels, linear, mlp, threat

FEW = {"apgd": {"steps": 10}, "fab": {"steps": 5}, "square": {"queries": 60}}
STAGES = ["restarts apgd-ce", "targets apgd-t", "restarts square"]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strong, "STEPS", 10)
    monkeypatch.setattr(strong, "QUERIES", 60)
    for name, few in FEW.items():
        monkeypatch.setitem(ATTACKS, name, shortened(ATTACKS[name], few))


class Masked(nn.Module):
    """The net on values rounded to 1/50; its gradient is zero, or passes straight through."""

    def __init__(self, net: nn.Module, through: bool = False) -> None:
        super().__init__()
        self.net, self.through = net, through

    def forward(self, x: Tensor) -> Tensor:
        rounded = (x * 50).round() / 50
        logits: Tensor = self.net(x + (rounded - x).detach() if self.through else rounded)
        return logits


class Cut(Masked):
    """The net without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.detach())
        return logits


def run(model: Any, inside: Any, size: int = 12, **options: Any) -> tuple[AutoAttackResult, Tensor, Tensor]:
    x = images(size)
    y = labels(model, x)
    return autoattack(model, x, y, inside, version="strong", **options), x, y


def test_what_the_stages_are() -> None:
    """Restarts, steps and targets of the documentation, and no more passes than were foretold."""

    def plan(classes: int, ball: type[Threat] = Linf, **given: Any) -> list[Any]:
        model, x = freeze(linear(classes)), images(2, dtype=torch.float32)
        run = Run(Trial(model, problem(x, labels(model.model, x), ball(1e-6), **given)), 0)
        found = stages(run, model, [model, model])
        return [(one.component.name, one.rounds, dict(one.component.arguments), one.asked) for one in found]

    ce, square = {"loss": "ce", "steps": 200}, {"queries": 5000}
    t = {"loss": "dlr-targeted", "steps": 100}
    names, rounds, arguments, asked = zip(*plan(12), strict=True)
    assert names == (
        "bpda apgd-ce", "bpda apgd-t", "restarts apgd-ce", "targets apgd-t", "transfer 0", "transfer 1",
        "restarts square",
    )  # fmt: skip
    assert rounds == (1, 1, 5, 1, 1, 1, 5)
    assert arguments[1:4] == (t | {"classes": 9}, ce, t | {"classes": 11, "nearest": False})
    assert arguments[6] == square
    assert asked == (True, True, False, False, True, True, False)
    for ball in (L1, L2):
        assert plan(12, ball)[2] == ("pdpgd", 1, {"steps": 300}, False)
        assert [name for name, *_ in plan(12, ball) if name != "pdpgd"] == [*names]
    assert plan(21)[3][2] == t | {"classes": 20, "nearest": False}
    assert plan(40)[3][2] == t | {"classes": 30, "nearest": True}
    y = labels(linear(12), images(2, dtype=torch.float32))
    names = [name for name, *_ in plan(12, targets=(y + 1) % 12)]
    assert names == ["bpda apgd-ce", "restarts apgd-ce", "transfer 0", "transfer 1", "restarts square"]


@pytest.mark.slow
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
    assert found.verdict.endswith(", attacked through BPDA: 0 (identity): no sign of masking there")
    assert found.values["square"] <= 0.01 < found.without["square"]
    spent = found.forwards + found.backwards
    assert found.samples >= 8
    assert spent <= max(0.05 * (out.forwards + out.backwards), 16 * (probes.HELD + probes.CHECKED))
    useless = bpda(masked, {"0": lambda x: -x})
    wrong, _, _ = run(masked, inside, size=40, bpda=useless)
    assert wrong.verdict.startswith("Do not trust: ")
    assert wrong.indicators.through == "BPDA: 0 (<lambda>)"


@pytest.mark.slow
def test_where_nothing_is_to_be_found_it_costs_at_most_three_tenths_more(few_steps: None) -> None:
    """Standard is what it is alone."""
    model, inside = mlp(3), Linf(1e-6)
    out, x, y = run(model, inside, size=60)
    alone = autoattack(model, x, y, inside)
    spent = alone.forwards + alone.backwards
    assert spent < out.forwards + out.backwards <= (1 + LOOK) * spent
    assert list(out.costs) == [*alone.costs, *STAGES]
    for name, cost in alone.costs.items():
        assert (cost.forwards, cost.broken) == (out.costs[name].forwards, out.costs[name].broken)
    assert torch.equal(out.x_adv, alone.x_adv)
    for name in STAGES:
        assert 0 < out.costs[name].samples <= 60
    assert out.notes[-1].startswith("strong: of 60 samples left, those nearest")
    assert f"restarts square on {out.costs['restarts square'].samples})" in out.notes[-1]


@pytest.mark.slow
def test_passes_bound_the_whole_call_and_inf_runs_all(few_steps: None) -> None:
    model, inside = mlp(3), Linf(1e-6)
    bare: dict[str, Any] = {"indicators": False}
    alone = autoattack(model, images(12), labels(model, images(12)), inside, **bare)
    spent = alone.forwards + alone.backwards
    out, _, _ = run(model, inside, passes=0, **bare)
    assert out.forwards + out.backwards <= spent + 12
    assert list(out.costs) == list(alone.costs)
    assert out.notes == tuple(f"{name}: not finished on 12 of 12, for want of passes" for name in STAGES)
    # a round of the first stage takes 25 at most, one of the last 63, and 12 order the samples
    bound = spent + 12 + 30 * 25 + 12
    out, _, _ = run(model, inside, passes=bound, **bare)
    assert bound - 63 < out.forwards + out.backwards <= bound
    assert 0 < out.costs["restarts apgd-ce"].samples < 60
    assert out.notes[-1] == "restarts square: not finished on 12 of 12, for want of passes"
    out, _, _ = run(model, inside, passes=inf, **bare)
    assert [out.costs[name].samples for name in STAGES] == [60, 12, 60]
    assert out.notes == ()


@pytest.mark.slow
def test_a_first_look_takes_the_samples_that_are_nearest_to_being_broken(few_steps: None) -> None:
    seen: list[list[int]] = []
    model, inside = mlp(3), Linf(0.01)
    real = ATTACKS["apgd"]

    def watched(*args: Any, ids: Tensor, seed: int, **options: Any) -> Any:
        seen.append(ids.tolist())
        return real(*args, ids=ids, seed=seed, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTACKS, "apgd", watched)
        # room for three samples of the first stage
        standard = autoattack(model, images(12), labels(model, images(12)), inside, indicators=False)
        seen.clear()
        _, _, y = run(model, inside, passes=standard.forwards + standard.backwards + 3 * 25)
    left = (~standard.success).nonzero().flatten()
    logits = model(standard.x_adv[left]).detach()
    margin = logits.scatter(1, y[left][:, None], -inf).amax(1) - logits.gather(1, y[left][:, None])[:, 0]
    assert len(left) > 3
    assert seen[2] == left[margin.argsort(descending=True)][:3].tolist()


@pytest.mark.slow
def test_each_round_draws_anew(few_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    real = ATTACKS["square"]

    def watched(*args: Any, seed: int, **options: Any) -> Any:
        seeds.append(seed)
        return real(*args, seed=seed, **options)

    monkeypatch.setitem(ATTACKS, "square", watched)
    run(mlp(3), Linf(1e-6), size=2, passes=inf)
    # one in standard and five here; the first look may leave some of the first round for later
    assert len(set(seeds)) == 6


@pytest.mark.slow
def test_bpda_breaks_what_is_masked_and_the_model_judges(few_steps: None) -> None:
    """The stage that broke a sample is named; then nothing is left out."""
    masked, open_ = Masked(mlp(4)), Masked(mlp(4), through=True)
    inside = threat("linf", 2)
    without = autoattack(masked, images(12), labels(masked, images(12)), inside)
    out, x, y = run(masked, inside, bpda=open_)
    assert out.by.count("bpda apgd-ce") > 0
    assert int(out.success.sum()) > int(without.success.sum())
    assert torch.equal(out.success, labels(masked, out.x_adv) != y)
    assert inside.contains(out.x_adv, x).all()
    left = 12 - sum(name in out.by and out.by.count(name) for name in set(out.by) - {""})
    assert out.costs["restarts square"].samples == 5 * left
    # the passes of the other model are counted
    cost = out.costs["bpda apgd-ce"]
    assert cost.backwards > 0
    assert out.backwards >= sum(cost.backwards for cost in out.costs.values())
    assert out.forwards > sum(cost.forwards for cost in out.costs.values())


@pytest.mark.slow
def test_points_of_a_source_break_a_model_without_a_gradient(few_steps: None) -> None:
    net, inside = mlp(4), threat("linf", 2)
    out, _, y = run(Cut(net), inside, source=[mlp(4, seed=7), net])
    assert out.by.count("transfer 1") > 0
    assert torch.equal(out.success, labels(net, out.x_adv) != y)
    assert out.costs["transfer 1"].backwards > 0
    one, _, _ = run(Cut(net), inside, source=net)
    assert "transfer" in one.by


@pytest.mark.slow
def test_the_search_goes_on_from_the_points_of_a_source(few_steps: None) -> None:
    """A source that is near the model leads close enough for a search that has a gradient."""
    seen: list[Tensor] = []
    real, model = ATTACKS["apgd"], mlp(4)

    def watched(*args: Any, **options: Any) -> Any:
        out = real(*args, **options)
        seen.append(options.get("starts", out.x_adv))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTACKS, "apgd", watched)
        run(model, Linf(1e-3), size=3, source=mlp(4, seed=7))
    places = [place for place in range(1, len(seen)) if torch.equal(seen[place], seen[place - 1])]
    assert len(places) == 1


@pytest.mark.slow
def test_a_warning_is_a_reason_for_all_stages(few_steps: None) -> None:
    out, _, _ = run(Masked(mlp(3)), Linf(1e-6))
    assert not out.success.any()
    assert [out.costs[name].samples for name in STAGES] == [60, 12, 60]


@pytest.mark.slow
def test_where_standard_leaves_nothing_it_adds_nothing(few_steps: None) -> None:
    out, x, y = run(mlp(4), Linf(1.0), size=4)
    alone = autoattack(mlp(4), x, y, Linf(1.0))
    assert out.success.all()
    assert (out.forwards, out.backwards) == (alone.forwards, alone.backwards)
    assert out.notes == ("strong: standard left nothing",)
    none = autoattack(mlp(4), x[:0], y[:0], Linf(1.0), version="strong", source=mlp(3))
    assert len(none.by) == 0


def test_other_models_must_fit() -> None:
    model, x = mlp(3), images(4)
    y = labels(model, x)

    def refused(message: str, **given: Any) -> None:
        with pytest.raises(InputError, match=message):
            autoattack(model, x, y, L2(0.1), version="strong", **given)

    refused("source: expected a net with the 3 classes of the model, got one with 5 as number 1",
            source=[mlp(3), mlp(5)])  # fmt: skip
    refused("bpda: expected a net with the 3 classes", bpda=mlp(2))
    refused("bpda: expected the decisions of the model .* got others on [1-4] of 4", bpda=mlp(3, seed=5))
    refused("model: expected", bpda=3)


@pytest.mark.slow
def test_a_source_without_a_gradient_is_refused(few_steps: None) -> None:
    with pytest.raises(InputError, match="source: expected a net with gradients"):
        run(mlp(3), Linf(1e-6), size=2, source=Cut(mlp(3)))


def test_an_ascent_may_start_anywhere() -> None:
    """The points are moved into the ball first; restarts begin at random ones."""
    model, x = mlp(3), images(5)
    y = labels(model, x)
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


@pytest.mark.slow
def test_a_source_without_finite_logits_finds_nothing(few_steps: None) -> None:
    """It does so for those that are left alone; what came before stays."""
    model, inside = mlp(4), threat("linf")
    alone, x, _ = run(model, inside)
    held = x[~alone.success].flatten(1)

    class Partial(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            near = torch.cdist(x.flatten(1), held).amin(1) < 0.5
            return torch.where(near[:, None], torch.nan, model(x))

    out, _, _ = run(model, inside, source=Partial())
    assert len(held)
    assert out.costs["transfer"].broken == 0
    assert torch.equal(out.success, alone.success)


@pytest.mark.slow
def test_what_the_caller_gives_takes_nothing_from_the_look_of_the_others(few_steps: None) -> None:
    more, _, _ = run(mlp(3), Linf(1e-6), size=60, source=[mlp(3, seed=seed) for seed in (7, 8, 9, 10)])
    alone, _, _ = run(mlp(3), Linf(1e-6), size=60)
    for name in STAGES:
        assert abs(more.costs[name].samples - alone.costs[name].samples) <= 1
