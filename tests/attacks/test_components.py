"""Lists of components of AutoAttack: what is told of each, and what components of one's own may do."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import AttackResult, Component, Status, autoattack, pgd
from fastadv.attacks.autoattack import ATTACKS
from fastadv.threat import Linf

from .nets import images, labels, linear, mlp, threat

PARTS = {"apgd-ce": ("apgd", {"steps": 20}), "square": ("square", {"queries": 200, "rescale": False})}


@pytest.mark.parametrize(
    ("names", "individual"), [("apgd-ce square", True), ("square apgd-ce", False), ("square", True)]
)
def test_square_stands_out_only_by_what_others_left(names: str, individual: bool) -> None:
    """On a linear model it breaks nothing that attacks by gradients do not break."""
    model, x = linear(), images(24, dtype=torch.float32)
    y = labels(model, x)
    parts = [Component(name, *PARTS[name]) for name in names.split()]
    out = autoattack(model, x, y, threat("linf", 2), version=parts, individual=individual)
    assert out.costs["square"].broken
    assert not any("Square" in flag for flag in out.flags)


def test_the_last_verdict_counts_among_the_passes_of_a_component_of_ones_own() -> None:
    model, x = mlp(5), images(8)
    own = Component("own", lambda *args, **options: pgd(*args, steps=2, stop_early=False, **options))
    out = autoattack(model, x, labels(model, x), threat("linf", 1e-3), version=[own], indicators=False)
    alone = pgd(model, x, labels(model, x), threat("linf", 1e-3), steps=2, stop_early=False)
    assert out.costs["own"].forwards == alone.forwards + len(x)


def test_how_far_a_sample_came_is_known_if_one_component_tells() -> None:
    """The least of all counts."""
    model, x = mlp(5), images(8)
    parts = [Component(f"{steps} steps", "apgd", {"steps": steps}) for steps in (2, 20)]
    both, *each = (
        autoattack(model, x, labels(model, x), threat("linf", 1e-3), version=version, indicators=False)
        for version in (parts, parts[:1], parts[1:])
    )
    assert torch.equal(both.unfinished, torch.stack([one.unfinished for one in each]).amin(0))
    assert not both.unfinished.isnan().any()


def test_a_component_of_ones_own_keeps_to_the_mask() -> None:
    def careless(*args: Any, mask: Tensor, **options: Any) -> AttackResult:
        return pgd(*args, steps=10, **options)

    model, x = mlp(5), images(8)
    y, mask, inside = labels(model, x), torch.arange(4) == 3, threat("linf", 3)
    assert pgd(model, x, y, inside, steps=10).success.any()
    out = autoattack(model, x, y, inside, version=[Component("careless", careless)], mask=mask)
    assert not out.success.any()
    assert torch.equal(out.x_adv, x)


def test_individual_components_are_all_told_where_no_sample_is_right() -> None:
    model, x = mlp(5), images(3)
    parts = [Component(name, *part) for name, part in PARTS.items()]
    out = autoattack(model, x, (labels(model, x) + 1) % 5, threat("linf"), version=parts, individual=True)
    assert {name: broken.tolist() for name, broken in out.broken.items()} == dict.fromkeys(PARTS, [False] * 3)
    assert out.costs == {}


def test_the_strongest_point_of_the_first_stands_for_samples_that_hold() -> None:
    model, x, inside = mlp(5), images(8), threat("linf", 1e-3)
    y = labels(model, x)
    parts = [Component("first", "apgd", {"steps": 5, "seed": 3}), Component("last", *PARTS["square"])]
    out = autoattack(model, x, y, inside, version=parts)
    assert not out.success.any()
    first = autoattack(model, x, y, inside, version=parts[:1])
    assert torch.equal(out.x_adv, first.x_adv)
    assert (out.x_adv != x).flatten(1).any(1).all()


def test_fab_restarts_within_the_radius_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = ATTACKS["fab"]

    def watched(*args: Any, restart_radius: Any, seed: int, **options: Any) -> AttackResult:
        seen.append(restart_radius)
        out: AttackResult = real(*args, restart_radius=restart_radius, seed=seed, **options | {"steps": 2})
        return out

    monkeypatch.setitem(ATTACKS, "fab", watched)
    model, x = mlp(5), images(2)
    own = Component("own", "fab", {"restart_radius": 0.5, "restarts": 2})
    autoattack(model, x, labels(model, x), Linf(1e-6), version=["fab", "fab-t", own])
    assert seen == [1e-6, 1e-6, 0.5]


def test_a_sample_for_which_a_component_of_ones_own_returns_no_numbers_has_failed() -> None:
    def sick(model: Any, x: Tensor, y: Tensor, threat: Any, **options: Any) -> AttackResult:
        nothing = torch.tensor([0.0, torch.nan, 0.0]).view(3, 1, 1, 1)
        return replace(pgd(model, x, y, threat, steps=1), x_adv=x + nothing)

    model, x = mlp(5), images(3)
    out = autoattack(model, x, labels(model, x), Linf(1e-6), version=[Component("sick", sick)])
    assert out.status.tolist() == [Status.HELD, Status.FAILED, Status.HELD]
    assert torch.equal(out.x_adv, x)
