"""SEA: four runs in balls that shrink, of which the worst is kept."""

import sys
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, Share
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


def test_a_stage_begins_where_the_last_one_had_most_wrong(monkeypatch):
    torch.manual_seed(0)
    model, x = torch.nn.Conv2d(1, 3, 3, padding=1), torch.rand(1, 1, 6, 6)
    y, seen, starts = model(x).argmax(1), [], []

    def wrong(points):
        with torch.no_grad():
            return int(
                (torch.nn.functional.conv2d(points, model.weight, model.bias, padding=1).argmax(1) != y).sum()
            )

    def project(search, points, factor):
        starts.append((wrong(points), list(seen)))
        seen.clear()
        return auto_pgd.project(search, points, factor)

    monkeypatch.setattr(sys.modules["fastadv.attacks.sea"], "project", project)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(wrong(inputs[0].detach())))
    share = fa.attacks.Share(1.0)
    fa.attacks.sea(model, x, y, fa.Linf(0.05), steps=40, losses=("ce",), criterion=share)
    for start, before in starts[1:]:
        assert start == max(before)
    assert len(starts) == 3
