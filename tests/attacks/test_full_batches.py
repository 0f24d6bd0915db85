"""Runs side by side find what they find one after the other."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv import L1, L2, Linf
from fastadv.attacks import AttackResult, apgd, fab
from fastadv.attacks.core.result import Status
from fastadv.attacks.methods import full_batches

from .nets import images, labeled, mlp

APART, TOGETHER = {"cpu": 1}, {"cpu": 10**6}


def both(monkeypatch: pytest.MonkeyPatch, attack: Any, *args: Any, **options: Any) -> list[AttackResult]:
    results = []
    for full in (APART, TOGETHER, {"cpu": 20}):
        monkeypatch.setattr(full_batches, "FULL", full)
        results.append(attack(*args, **options))
    return results


def assert_same(results: list[AttackResult]) -> None:
    first = results[0]
    for other in results[1:]:
        torch.testing.assert_close(other.x_adv, first.x_adv, rtol=0, atol=1e-8)
        torch.testing.assert_close(other.loss, first.loss, rtol=0, atol=1e-8)
        assert torch.equal(other.status, first.status)
        assert torch.equal(other.zero_gradient, first.zero_gradient)
        assert other.flags == first.flags


@pytest.mark.slow
@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize("threat", [Linf(0.08), L2(0.25), L1(0.6)], ids=lambda threat: threat.norm)
def test_targets_of_apgd(threat: Any, stop_early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = labeled(mlp(7), images(9))
    y[2] = (y[2] + 1) % 7
    threat = threat.with_radius(threat.radius * torch.linspace(0.2, 1.8, 9, dtype=torch.float64))
    results = both(
        monkeypatch, apgd, net, x, y, threat, loss="margin-targeted", steps=8, stop_early=stop_early,
        restarts=2, ids=torch.arange(9) * 3,
    )  # fmt: skip
    assert_same(results)
    assert {Status.HELD, Status.BROKEN, Status.ALREADY_WRONG} <= set(results[0].status.tolist())
    apart, together, _ = results
    if not stop_early:
        assert together.forwards == apart.forwards


@pytest.mark.slow
@pytest.mark.parametrize("threat", [Linf(torch.inf), L2(0.8), L1(torch.inf)], ids=lambda threat: threat.norm)
def test_classes_of_fab(threat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = labeled(mlp(6), images(8))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    results = both(monkeypatch, fab, net, x, y, threat, steps=5, targeted=True, restarts=2, mask=mask)
    assert_same(results)
    torch.testing.assert_close(results[1].distance, results[0].distance)
    assert (results[0].distance > 0).all()


def test_the_first_run_to_break_a_sample_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own success stays where a later run, which would not have been made, is stronger."""
    net, x, y = labeled(mlp(5), images(6))
    targeted = {"loss": "margin-targeted", "steps": 4}
    alone = apgd(net, x, y, Linf(0.5), classes=1, **targeted)  # type: ignore[arg-type]
    assert alone.success.all()
    for out in both(monkeypatch, apgd, net, x, y, Linf(0.5), classes=4, **targeted):
        torch.testing.assert_close(out.x_adv, alone.x_adv, rtol=0, atol=1e-9)


def test_what_one_copy_met_is_known_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the random starts have logits that are not finite."""

    def model(x: Tensor) -> Tensor:
        first, second = x.flatten(1)[:, :2].unbind(1)
        none = torch.where(first > 0.55, torch.nan, 0.0)
        return torch.stack([none + 9, second + 1, second], 1)

    x = torch.full((12, 1, 4, 4), 0.5, dtype=torch.float64)
    y = torch.zeros(12, dtype=torch.long)
    results = both(monkeypatch, apgd, model, x, y, Linf(0.1), loss="margin-targeted", steps=0)
    assert_same(results)
    assert set(results[0].status.tolist()) == {Status.FAILED, Status.HELD}


def test_samples_that_are_broken_take_no_further_part(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = labeled(mlp(5), images(6))
    monkeypatch.setattr(full_batches, "FULL", {"cpu": 12})
    two, four = (
        apgd(net, x, y, Linf(0.5), loss="margin-targeted", steps=4, classes=classes) for classes in (2, 4)
    )
    assert two.success.all()
    assert four.forwards == two.forwards


@pytest.mark.slow
def test_a_gradient_that_is_zero_for_one_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes 1 and 2 have no gradient, class 3 has: the sample had one."""

    def model(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        none = torch.zeros_like(flat[:, 0])
        return torch.stack([none + 3, none + 1, none + 2, flat.mean(1)], 1)

    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.long)
    targets = {"loss": "margin-targeted", "steps": 3}
    for out in both(monkeypatch, apgd, model, x, y, Linf(0.1), classes=3, **targets):
        assert not out.zero_gradient.any()
    for out in both(monkeypatch, apgd, model, x, y, Linf(0.1), classes=2, **targets):
        assert out.zero_gradient.all()
