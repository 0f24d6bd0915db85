"""SEA: four runs in balls that shrink, of which the worst is kept. SegPGD: its schedule, step by step."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, Share
from fastadv.attacks.core import GradientRule, Search
from tests.refusals import refuses

from .nets import images, seed_cpu
from .watched import watched

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
@pytest.mark.parametrize("name", RUNS)
def test_stages(name: str) -> None:
    """6, 6 and 8 steps at twice, one and a half times and the radius, each from where most was wrong."""
    model, x, y = case()
    function, seen = watched(model)
    fa.attacks.sea(function, x, y, fa.Linf(0.05), steps=20, losses=(name,), criterion=SHARE)
    before, went_back = None, False
    for first, last, radius in ((1, 8, 0.1), (8, 15, 0.075), (15, 24, 0.05)):
        points, ball = torch.stack(seen[first:last]), fa.Linf(radius)
        assert float((points - x).abs().amax()) == pytest.approx(radius)
        if before is not None:
            hits = torch.stack([wrong(stage) for stage in before])
            begun = torch.stack([(ball.project(stage, x) - points[0]).abs() < 1e-9 for stage in before])
            assert (begun.flatten(2).all(2) & (hits == hits.amax(0))).any(0).all()
            went_back |= bool((hits[-1] < hits.amax(0)).any())
        before = points
    assert went_back


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
        refuses("losses: expected names of losses", sea, losses=losses)
    refuses(r"loss: expected .* cospgd, .*got 'dlr'", sea, losses=("dlr",))
    assert torch.equal(sea(steps=0).x_adv, case()[1])


class Jitter(GradientRule):
    def __call__(self, search: Search[Any], points: Tensor, ask: Any) -> Tensor:
        gradient = ask(points)
        before = search.memory.get("before", gradient)
        search.memory["before"] = gradient
        return before + gradient + 0.1 * (search.uniform(gradient[0].numel()).view_as(gradient) - 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"gradient": Jitter()}, {"restarts": 2}], ids=["rule", "no answer"])
@pytest.mark.parametrize("name", ["js", "bounded_margin"])
def test_a_run_knows_nothing_of_the_last_one(name: str, options: dict[str, Any]) -> None:
    """Two runs of one loss take the same way, also where random starts have no finite logits."""
    model, x, y = case()
    seen, restarts = list[Tensor](), options.get("restarts", 1)

    def broken(points: Tensor) -> Tensor:
        seen.extend([points.detach().clone()] * points.requires_grad)
        own = (points[:, None] - x).flatten(2).abs().amax(2).argmin(1)  # whose point it is
        beyond = (restarts > 1) & ((points - x[own])[:, 0, 0, 0] < -0.03)
        return model(points).masked_fill(beyond[:, None, None, None], torch.nan)

    fa.attacks.sea(broken, x, y, fa.Linf(0.05), steps=10, losses=(name, name), criterion=SHARE, **options)
    runs = torch.stack(seen).unflatten(0, (restarts, 2, 10))
    torch.testing.assert_close(runs[:, 0], runs[:, 1])
    assert restarts == 1 or broken(runs[1, 0, 0]).isnan().any()


def net() -> nn.Module:
    seed_cpu(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, 3, 3, padding=1)).double()


def by_hand(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int, size: float) -> list[Tensor]:
    """The loop of the paper in Linf from x, with the label 7 left out; all points."""
    points = [x]
    counts = y != 7
    labels = torch.where(counts, y, 0)
    for t in range(1, steps + 1):
        z = points[-1].clone().requires_grad_()
        logits = model(z)
        label = logits.gather(1, labels[:, None])
        away = (logits.scatter(1, labels[:, None], -torch.inf).amax(1) - label[:, 0]).detach().abs() * counts
        unit = 0.15 * away.sum((1, 2), keepdim=True) / counts.sum((1, 2), keepdim=True)
        loss = nn.functional.cross_entropy(logits / unit[:, None], labels, reduction="none")
        share = (t - 1) / (2 * steps)
        weight = torch.where(logits.argmax(1) == labels, 1 - share, share) * counts / (1 + loss.detach()) ** 2
        (gradient,) = torch.autograd.grad((weight * loss).sum(), z)
        moved = points[-1] + size * gradient.sign()
        points.append(torch.minimum(torch.maximum(moved, x - radius), x + radius).clamp(0, 1))
    return points


def test_points_are_those_of_the_paper() -> None:
    model, x = net(), images(4, (2, 6, 6))
    y = model(x).argmax(1)
    y[:, 2] = 7
    points = by_hand(model, x, y, 0.2, 6, 0.05)
    wrong = torch.stack([((model(z).argmax(1) != y) & (y != 7)).flatten(1).sum(1) for z in points])
    out = fa.attacks.segpgd(
        model, x, y, fa.Linf(0.2), steps=6, step_size=0.05, random_start=False,
        criterion=Share(1.0, ignore=7),
    )  # fmt: skip
    assert torch.equal(((model(out.x_adv).argmax(1) != y) & (y != 7)).flatten(1).sum(1), wrong.amax(0))
    for place, most in enumerate(wrong.argmax(0).tolist()):
        if (wrong[:, place] == wrong[most, place]).sum() == 1:  # else the loss decides
            torch.testing.assert_close(out.x_adv[place], points[most][place])
    assert (wrong.amax(0) > 0).all()
