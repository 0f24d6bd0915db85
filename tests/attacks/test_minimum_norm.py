"""Gradient attacks for the minimum norm: exact distances on linear models, and the options they share."""

from functools import cache
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import ATTACKS, ConfidentlyWrong, OutsideTopK, Status
from fastadv.errors import InputError
from fastadv.threat import THREATS

from .halfspaces import nearest, problem
from .nets import images, labels, mlp

# the attack, its norm, the largest distance over the exact one, and the arguments that lead there
EXACT: list[tuple[str, str, float, dict[str, Any]]] = [
    ("ddn", "l2", 1.05, {"steps": 200}),
    ("fmn", "linf", 1.05, {"steps": 150}),
    ("fmn", "l2", 1.05, {"steps": 150}),
    ("fmn", "l1", 1.05, {"steps": 300}),
    ("fmn", "l0", 1.25, {"steps": 150}),
    ("pdgd", "l2", 1.05, {"steps": 150}),
    ("pdpgd", "linf", 1.05, {"steps": 150}),
    ("pdpgd", "l2", 1.05, {"steps": 150}),
    ("pdpgd", "l1", 1.05, {"steps": 150}),
    ("pdpgd", "l0", 1.25, {"steps": 150}),
    ("sigma_zero", "l0", 1.25, {"steps": 300}),
]
PAIRS = [(name, norm) for name, norm, _, _ in EXACT]


def attacked(
    name: str, norm: str, *args: Any, radius: Any = inf, box: Any = (0.0, 1.0), **options: Any
) -> Any:
    entry = ATTACKS[name]
    return entry.run(*args, THREATS[norm](radius, box), **{**entry.quick, "steps": 60, **options})


@cache
def plainly(name: str, norm: str, classes: int = 3, **options: Any) -> Any:
    """What the attack makes of `problem`, for tests that compare with it."""
    return attacked(name, norm, *problem(784, classes, **options))


@cache
def in_the_unit_box(name: str, norm: str) -> Any:
    """The same of `mlp`."""
    model, x = mlp(), images(12)
    return attacked(name, norm, model, x, labels(model, x))


@pytest.mark.slow
@pytest.mark.parametrize(("inputs", "classes"), [(784, 2), (784, 10), (3072, 3)])
@pytest.mark.parametrize(("name", "norm", "ratio", "options"), EXACT)
def test_exact_distance(
    name: str, norm: str, ratio: float, options: dict[str, Any], inputs: int, classes: int
) -> None:
    model, x, y = problem(inputs, classes)
    distance, _ = nearest(model, x, y, norm)
    out = attacked(name, norm, model, x, y, **options)
    assert (out.status == Status.BROKEN).all()
    assert (model(out.x_adv).argmax(1) != y).all()
    torch.testing.assert_close(out.distance, THREATS[norm](inf).distance(out.x_adv, x).float())
    assert (out.distance >= distance * (1 - 1e-5)).all()
    assert (out.distance <= distance * ratio + 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_a_thousand_classes(name: str, norm: str) -> None:
    model, x, y = problem(784, 1000, size=2)
    distance, _ = nearest(model, x, y, norm)
    out = attacked(name, norm, model, x, y)
    assert (out.distance <= distance * 1.25 + (norm == "l0")).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm", "ratio", "options"), EXACT)
def test_exact_distance_to_a_target(name: str, norm: str, ratio: float, options: dict[str, Any]) -> None:
    model, x, y = problem(784, 3, size=24)
    targets = (y + 1) % 3
    distance, point = nearest(model, x, y, norm, targets)
    exact = model.double()(point).scatter(1, y[:, None], -inf).argmax(1) == targets
    model.float()
    assert exact.sum() >= 6
    out = attacked(name, norm, model, x, y, targets=targets, **options)
    assert (model(out.x_adv).argmax(1) == targets).all()
    assert (out.distance >= distance * (1 - 1e-5)).all()
    assert (out.distance <= distance * ratio + 1e-6)[exact].all()


@pytest.mark.slow
@pytest.mark.parametrize("box", [(-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_the_box_sets_the_scale(name: str, norm: str, box: tuple[float, float]) -> None:
    low, wide = box[0], box[1] - box[0]
    model, x = mlp(), images(12)
    y = labels(model, x)
    unit = in_the_unit_box(name, norm)
    other = attacked(name, norm, lambda z: model((z - low) / wide), low + wide * x, y, box=box)
    assert unit.success.all()
    scale = 1.0 if norm == "l0" else wide
    assert other.success.all()
    assert float((other.distance / scale / unit.distance).median()) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_a_box_without_edges(name: str, norm: str) -> None:
    model, x = mlp(), images(12)
    y = labels(model, x)
    out = attacked(name, norm, model, x, y, box=(-inf, inf))
    assert out.success.all()
    assert out.x_adv.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_only_the_mask_moves(name: str, norm: str) -> None:
    model, x, y = problem(784, 3)
    mask = torch.rand(1, 784, generator=torch.Generator().manual_seed(3)) < 0.5
    out = attacked(name, norm, model, x, y, mask=mask)
    assert out.success.all()
    assert torch.equal(out.x_adv[:, ~mask[0]], x[:, ~mask[0]])
    free = plainly(name, norm)
    assert (out.distance >= free.distance * 0.97).all()
    assert (out.distance > free.distance).any()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
@pytest.mark.parametrize("criterion", [OutsideTopK(2), ConfidentlyWrong(0.9)], ids=["top", "confident"])
def test_criteria(name: str, norm: str, criterion: Any) -> None:
    """They are met, and that lies further away than another class does."""
    model, x, y = problem(784, 5, scale=10)
    plain = plainly(name, norm, 5, scale=10)
    out = attacked(name, norm, model, x, y, criterion=criterion)
    assert out.success.all()
    assert criterion.met(model(out.x_adv).detach(), y, None).all()
    assert (out.distance >= plain.distance * 0.97).all()
    assert (out.distance > plain.distance).float().mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_targets_with_confidence(name: str, norm: str) -> None:
    model, x, y = problem(784, 5, scale=10)
    targets = (y + 2) % 5
    out = attacked(name, norm, model, x, y, targets=targets, criterion=ConfidentlyWrong(0.8))
    assert out.success.all()
    probability = model(out.x_adv).softmax(1).gather(1, targets[:, None])
    assert (probability >= 0.8 - 1e-5).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_nothing_counts_beyond_the_radius(name: str, norm: str) -> None:
    """One radius a sample: those with enough are broken, the others return x itself."""
    model, x, y = problem(784, 3)
    distance, _ = nearest(model, x, y, norm)
    wide = torch.arange(len(x)) % 2 == 0
    radius = torch.where(wide, distance * 1.3 + (norm == "l0"), distance * 0.7)
    out = attacked(name, norm, model, x, y, radius=radius)
    assert torch.equal(out.success, wide)
    assert (out.distance[wide] <= radius[wide] * (1 + 1e-6)).all()
    assert (out.distance[~wide] == inf).all()
    assert (out.status[~wide] == Status.HELD).all()
    assert torch.equal(out.x_adv[~wide], x[~wide])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_more_steps_are_never_worse(name: str, norm: str) -> None:
    model, x, y = problem(784, 10)
    few, many = (attacked(name, norm, model, x, y, steps=steps).distance for steps in (25, 150))
    assert (many <= few * 1.001 + (norm == "l0")).all()
    assert (many < few).any() or norm == "l0"


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_each_step_costs_one_gradient(name: str, norm: str) -> None:
    """And one more pass, for the last point."""
    model, x, y = problem(784, 3, size=4)
    seven, nine = (attacked(name, norm, model, x, y, steps=steps) for steps in (7, 9))
    assert nine.backwards - seven.backwards == 2 * 4
    assert nine.forwards - seven.forwards == 2 * 4
    assert seven.backwards == 7 * 4


class Flat(nn.Module):
    """Label 0 wherever one looks, and no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([2.0, 1.0]) + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_nothing_found_is_x_itself(name: str, norm: str) -> None:
    x = images(5, dtype=torch.float32)
    out = attacked(name, norm, Flat(), x, torch.zeros(5, dtype=torch.long))
    assert (out.status == Status.HELD).all()
    assert torch.equal(out.x_adv, x)
    assert out.zero_gradient.all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), PAIRS)
@pytest.mark.parametrize("scale", [1e-20, 1e20], ids=["tiny", "huge"])
def test_the_size_of_the_gradient_does_not_matter(name: str, norm: str, scale: float) -> None:
    """A gradient whose square leaves the format."""
    model, x, y = problem(784, 3, size=4)
    plain = plainly(name, norm, size=4)
    scaled = attacked(name, norm, lambda z: model(z) * scale, x, y)
    assert scaled.success.all()
    if name != "sigma_zero":  # whose loss weighs the margin against the number of coordinates
        assert (scaled.distance <= plain.distance * 1.3).all()


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_step_counts_are_checked(name: str, norm: str) -> None:
    model, x, y = problem(784, 3, size=2)
    for steps in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="steps"):
            attacked(name, norm, model, x, y, steps=steps)


@pytest.mark.parametrize("name", sorted({name for name, _ in PAIRS}))
def test_other_norms_are_refused(name: str) -> None:
    model, x, y = problem(784, 3, size=2)
    for norm in set(THREATS) - set(ATTACKS[name].norms):
        with pytest.raises(InputError, match="threat: expected one of"):
            attacked(name, norm, model, x, y)
    with pytest.raises(InputError, match="threat"):
        ATTACKS[name].run(model, x, y, 0.3, steps=3)
