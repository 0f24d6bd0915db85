"""Grid search: all combinations, the strongest of them, and what it takes."""

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import Status
from fastadv.errors import InputError

from .nets import images, labels, mlp

MODEL = mlp(inputs=3)


def rows(size: int = 8) -> tuple[Tensor, Tensor]:
    x = images(size, (3,), seed=4)
    return x, labels(MODEL, x)


def margins(x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        logits = MODEL(x)
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None]).squeeze(1)


@pytest.mark.parametrize("radius", [0.1, 0.4, torch.linspace(0.05, 0.5, 8).double()], ids=str)
def test_the_strongest_point_of_all(radius: float | Tensor) -> None:
    """By loops over the grid, which ends where box and ball do."""
    x, y = rows()
    threat = fa.Linf(radius)
    reach = torch.as_tensor(radius, dtype=x.dtype).view(-1, 1)
    low, high = (x - reach).clamp_min(0), (x + reach).clamp_max(1)
    best = torch.full((8,), -torch.inf, dtype=x.dtype)
    for shares in product(torch.linspace(0, 1, 3), torch.linspace(0, 1, 4), torch.linspace(0, 1, 5)):
        best = torch.maximum(best, margins(low + (high - low) * torch.stack(shares), y))
    out = fa.attacks.grid(MODEL, x, y, threat, points=(3, 4, 5), stop_early=False)
    torch.testing.assert_close(margins(out.x_adv, y), best, rtol=0, atol=1e-6)
    assert torch.equal(out.success, best > 0)
    assert threat.contains(out.x_adv, x).all()
    assert (out.forwards, out.backwards) == (8 * 60 + 16, 0)
    soon = fa.attacks.grid(MODEL, x, y, threat, points=(3, 4, 5))
    assert torch.equal(soon.success, out.success)
    assert soon.forwards < out.forwards or not out.success.any()
    assert soon.forwards >= 60 * int((~out.success).sum())
    aimed = fa.attacks.grid(MODEL, x, y, threat, points=7, targets=(y + 1) % 3)
    assert torch.equal(aimed.success, labels(MODEL, aimed.x_adv) == (y + 1) % 3)


def test_one_point_leaves_a_parameter_as_it_is() -> None:
    x, y = rows()
    out = fa.attacks.grid(MODEL, x, y, fa.Linf(0.5), points=(1, 9, 1))
    assert torch.equal(out.x_adv[:, ::2], x[:, ::2])
    assert out.success.any()
    none = fa.attacks.grid(MODEL, x, y, fa.Linf(0.5), points=1)
    assert torch.equal(none.x_adv, x)
    assert (none.status == Status.HELD).all()


@pytest.mark.parametrize(
    ("message", "given"),
    [
        ("one integer for each of 3 parameters", {"points": (5, 5)}),
        ("at most 1,048,576 points", {"points": 200}),
        ("points: expected an integer >= 1", {"points": (5, 0, 5)}),
        ("points", {"points": 2.5}),
        ("expected one of Linf, which grid serves", {"threat": fa.L2(0.1)}),
        ("radius: expected a finite one", {"threat": fa.Linf(torch.inf)}),
    ],
)
def test_wrong_arguments(message: str, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        fa.attacks.grid(MODEL, *rows(), **{"threat": fa.Linf(0.1), **given})


def brightened(x: Tensor, t: Tensor) -> Tensor:
    """Write into both, as a map may."""
    return x.add_(t.mul_(0.5).sum(1).view(-1, 1)).clamp_(0, 1)


def brighter(x: Tensor, t: Tensor) -> Tensor:
    return (x + (0.5 * t).sum(1).view(-1, 1)).clamp(0, 1)


def through(count: int, map: Callable[[Tensor, Tensor], Tensor] = brighter) -> fa.Through:
    return fa.Through(map, fa.Linf(0.6, box=(-1, 1)), still=lambda x: x.new_zeros(len(x), count))


@pytest.mark.parametrize(("count", "points"), [(1, (201,)), (2, (31, 31)), (3, (5, 5, 31))])
def test_the_default_of_one_to_three_parameters(count: int, points: tuple[int, ...]) -> None:
    x, y = rows()
    threat = through(count)
    out = fa.attacks.grid(MODEL, x, y, threat, stop_early=False)
    assert torch.equal(out.x_adv, fa.attacks.grid(MODEL, x, y, threat, points=points, stop_early=False).x_adv)
    assert out.forwards == 8 * (prod(points) + 2)
    assert not (fa.attacks.grid(MODEL, x, y, threat, points=5, stop_early=False).success & ~out.success).any()


@pytest.mark.parametrize("threat", [through(4), fa.Scaled(torch.full((3, 2), 0.1))], ids=["map", "table"])
def test_more_parameters_need_points(threat: fa.Through) -> None:
    x = torch.rand(4, 3, 2) if threat.name.startswith("Scaled") else rows(4)[0]
    y = x.flatten(1)[:, :3].argmax(1)
    with pytest.raises(InputError, match=r"points: expected a number for each of [46] .* pass points="):
        fa.attacks.grid(lambda z: z.flatten(1)[:, :3], x, y, threat)


@pytest.mark.parametrize("search", [fa.attacks.pgd, fa.attacks.grid, fa.attacks.deepfool])
def test_a_map_works_on_copies(search: Callable[..., fa.attacks.AttackResult]) -> None:
    x, y = rows()
    before = x.clone()
    out = search(MODEL, x, y, through(2, brightened))
    assert torch.equal(x, before)
    assert torch.equal(out.x_adv, search(MODEL, x, y, through(2)).x_adv)
    assert torch.equal(through(2, brightened).image(out.parameters, x), out.x_adv)


def test_square_names_what_serves() -> None:
    for count, serves in ((1, "grid"), (6, "nes")):
        with pytest.raises(InputError, match=rf"\[C, H, W\] for square, got .*, without gradients, {serves}"):
            fa.attacks.square(MODEL, *rows(), through(count))
