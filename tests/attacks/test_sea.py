"""SEA: four runs in balls that shrink, of which the worst is kept."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, Share
from fastadv.attacks.core import GradientRule, Search
from fastadv.attacks.methods import auto_pgd
from fastadv.errors import InputError
from fastadv.threat import Linf

from .nets import images, seed_cpu

RUNS = ("bounded_margin", "balanced_ce", "masked_ce", "js")
SHARE = Share(1.0, ignore=7)


@cache
def case() -> tuple[nn.Module, Tensor, Tensor]:
    seed_cpu(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1)).double()
    with torch.no_grad():
        model[2].weight.mul_(4)
    x = images(5, (2, 6, 6))
    y = model(x).argmax(1)
    y[:, 3, 1:] = 7
    return model, x, y


def wrong(x_adv: Tensor) -> Tensor:
    model, _, y = case()
    return ((model(x_adv).argmax(1) != y) & (y != 7)).flatten(1).sum(1)


def sea(**options: object) -> AttackResult:
    model, x, y = case()
    return fa.attacks.sea(model, x, y, fa.Linf(0.05), **{"criterion": SHARE, "steps": 20, **options})


@pytest.mark.slow
def test_the_worst_of_four_runs() -> None:
    runs = torch.stack([wrong(sea(losses=(name,)).x_adv) for name in RUNS])
    assert torch.equal(wrong(sea().x_adv), runs.amax(0))
    assert (runs.amax(0) > runs.amin(0)).any()
    assert sea().forwards == 5 * (2 + 4 * (20 + 3)) - 5  # three starts of stages; x was seen


@pytest.mark.slow
def test_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """6, 6 and 8 steps at twice, one and a half times and the radius, each from the best of the last."""
    x = case()[1]
    balls: list[float] = []
    step: Callable[..., Tensor] = Linf.step

    def spied(self: Linf, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: Tensor) -> Tensor:
        first = not balls or balls[-1] != self.radius
        balls.append(float(self.radius))
        if first:
            assert (step_size == 2 * self.radius).all()
            assert self.contains(x_adv, x).all()
        return step(self, x_adv, grad, x, step_size)

    monkeypatch.setattr(Linf, "step", spied)
    out = sea(losses=("js",))
    assert balls == pytest.approx([0.1] * 6 + [0.075] * 6 + [0.05] * 8)
    assert fa.Linf(0.05).contains(out.x_adv, x).all()


@pytest.mark.slow
def test_options_of_all_attacks() -> None:
    model, x, y = case()
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, :, :3] = True
    out = sea(mask=mask, restarts=2)
    assert torch.equal(out.x_adv[~mask], x[~mask])
    assert (wrong(out.x_adv) > 0).any()
    half = Share(0.2, ignore=7)
    early = sea(criterion=half, stop_early=True)
    assert early.success.any()
    assert early.forwards < sea(criterion=half).forwards
    targets = torch.where(y == 7, y, (y + 1) % 4)
    aimed = sea(targets=targets)
    assert (model(aimed.x_adv).argmax(1) == targets).sum() > (model(x).argmax(1) == targets).sum()
    long = fa.attacks.sea(model, x, y, fa.L2(0.5), steps=10, criterion=SHARE)
    assert fa.L2(0.5).contains(long.x_adv, x).all()
    assert (wrong(long.x_adv) > 0).any()


def test_losses_are_names() -> None:
    for losses in ("js", ()):
        with pytest.raises(InputError, match="losses: expected names of losses"):
            sea(losses=losses)
    with pytest.raises(InputError, match=r"loss: expected .* cospgd, .*got 'dlr'"):
        sea(losses=("dlr",))
    assert torch.equal(sea(steps=0).x_adv, case()[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_stage_begins_where_the_last_one_had_most_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not where it ended; of each sample, and whatever the sample's neighbors do."""
    model, x, y = case()
    seen, starts = list[Tensor](), list[tuple[Tensor, Tensor]]()

    def project(search: Any, points: Tensor, factor: float) -> Tensor:
        starts.append((wrong(points), torch.stack(seen)))
        seen.clear()
        return auto_pgd.project(search, points, factor)

    def watched(points: Tensor) -> Tensor:
        seen.append(wrong(points.detach()))
        return model(points)

    monkeypatch.setattr(sys.modules["fastadv.attacks.sea"], "project", project)
    fa.attacks.sea(watched, x, y, fa.Linf(0.05), steps=40, losses=(name,), criterion=SHARE)
    assert len(starts) == 3
    for start, before in starts[1:]:
        assert torch.equal(start, before.amax(0))
    assert any((before[-1] < start).any() for start, before in starts[1:])


class Jitter(GradientRule):
    def __call__(self, search: Search[Any], points: Tensor, ask: Any) -> Tensor:
        gradient = ask(points)
        before = search.memory.get("before", gradient)
        search.memory["before"] = gradient
        return before + gradient + 0.1 * (search.uniform(gradient[0].numel()).view_as(gradient) - 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"gradient": Jitter()}, {"restarts": 2}], ids=["rule", "no answer"])
@pytest.mark.parametrize("name", ["js", "bounded_margin"])
def test_a_run_knows_nothing_of_the_last_one(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one loss take the same way, also where random starts have no finite logits."""
    model, x, y = case()
    starts, gaps = list[Tensor](), "restarts" in options

    def broken(points: Tensor, ids: Tensor) -> Tensor:
        beyond = gaps & ((points - x[ids])[:, 0, 0, 0] < -0.03)
        return model(points).masked_fill(beyond[:, None, None, None], torch.nan)

    def project(search: Any, points: Tensor, factor: float) -> Tensor:
        starts.append(points.clone())
        return auto_pgd.project(search, points, factor)

    monkeypatch.setattr(sys.modules["fastadv.attacks.sea"], "project", project)
    fa.attacks.sea(broken, x, y, fa.Linf(0.05), steps=10, losses=(name, name), criterion=SHARE, **options)
    runs = torch.stack(starts).unflatten(0, (-1, 2, 3))  # restarts, runs, stages
    torch.testing.assert_close(runs[:, 0], runs[:, 1])
    assert not gaps or broken(runs[1, 0, 0], torch.arange(5)).isnan().any()
