"""Rules for transfer against their formulas, image by image, and their independence of the batch."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks import Status, fmn, mim
from fastadv.attacks.core import GradientRule, run
from fastadv.attacks.rules import (
    block_shuffle,
    diverse_inputs,
    flat_minima,
    translation_invariant,
    variance_tuning,
)
from fastadv.errors import InputError
from fastadv.threat import L2, Linf

from .nets import images, labels, mlp

IDS = torch.tensor([3, 11, 0, 7])


def scene(shape: tuple[int, ...] = (2, 7, 6)) -> tuple[nn.Module, Tensor, Tensor]:
    model = mlp(4, math.prod(shape))
    x = images(4, shape)
    return model, x, labels(model, x)


def gradient(model: nn.Module, y: Tensor, x: Tensor, seen: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of the margin at `seen` of x, by torch."""
    x = x.detach().requires_grad_()
    logits = model(seen(x))
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return torch.autograd.grad((others - logits.gather(1, y[:, None])[:, 0]).sum(), x)[0]


def followed(rule: GradientRule, shape: tuple[int, ...] = (2, 7, 6), seed: int = 5) -> tuple[Any, ...]:
    model, x, y = scene(shape)
    looks: list[Tensor] = []
    run(
        model, x, y, Linf(0.2, (-9, 9)), lambda search: looks.append(search.gradient(search.x).gradient),
        gradient=rule, loss="margin", seed=seed, ids=IDS,
    )  # fmt: skip
    return looks[0], model, x, y


def drawn(count: int, draw: int, seed: int = 5) -> Tensor:
    return rng.uniform(count, rng.derive(seed, "gradient rule", 0), IDS, draw).double()


@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 10, 10), (1, 1, 9)])
def test_diverse_inputs_are_resized_padded_and_resized_back(shape: tuple[int, ...]) -> None:
    def resized(image: Tensor, chosen: float, size: float, *places: float) -> Tensor:
        if chosen >= 0.7:
            return image
        sides = image.shape[1:]
        most = [round(1.4 * side) for side in sides]
        small = [side + int(size * max(top - side, 1)) for side, top in zip(sides, most, strict=True)]
        top, left = (int(p * (m - s + 1)) for p, m, s in zip(places, most, small, strict=True))
        there = F.interpolate(image[None], size=small, mode="bilinear")
        there = F.pad(there, (left, most[1] - small[1] - left, top, most[0] - small[0] - top))
        return F.interpolate(there, size=tuple(sides), mode="bilinear")[0]

    found, model, x, y = followed(diverse_inputs(0.7, 1.4), shape)
    draws = drawn(4, 1).tolist()
    assert len({draw[0] < 0.7 for draw in draws}) == 2

    def seen(x: Tensor) -> Tensor:
        return torch.stack([resized(image, *draw) for image, draw in zip(x, draws, strict=True)])

    torch.testing.assert_close(found, gradient(model, y, x, seen))


def pieces(draws: Tensor, side: int) -> list[tuple[int, int]]:
    """Where the pieces of an axis begin and end, in their new order."""
    share, key = (1 - draws).view(2, -1)
    ends = [0, *(share.cumsum(0) / share.sum() * side).round().int().tolist()]
    return [(ends[place], ends[place + 1]) for place in key.argsort().tolist()]


def turned(block: Tensor, angle: float) -> Tensor:
    height, width = block.shape[1:]
    cos, sin = math.cos(angle), math.sin(angle)
    map_ = [[[cos, sin * height / width, 0], [-sin * width / height, cos, 0]]]
    grid = F.affine_grid(torch.tensor(map_).to(block), [1, *block.shape], align_corners=False)
    return F.grid_sample(block[None], grid, align_corners=False)[0]


def shuffled(image: Tensor, draws: Tensor, b: int, degrees: float) -> Tensor:
    axis, strips, blocks, angles = draws.split([1, 2 * b, 2 * b * b, b * b])
    image = image.mT if axis < 0.5 else image
    angles = ((2 * angles - 1) * math.radians(degrees)).view(b, b)
    made = []
    for (low, high), inside, turns in zip(
        pieces(strips, image.shape[1]), blocks.view(b, -1), angles.tolist(), strict=True
    ):
        parts = zip(pieces(inside, image.shape[2]), turns, strict=True)
        cut = [(image[:, low:high, left:right], turn) for (left, right), turn in parts]
        cells = [turned(cell, turn) if cell.numel() else cell for cell, turn in cut]
        made.append(torch.cat(cells, 2))
    result = torch.cat(made, 1)
    return result.mT if axis < 0.5 else result


@pytest.mark.parametrize(("b", "degrees"), [(2, 24), (3, 0), (3, 90), (1, 30)])
@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 3, 11)])
def test_blocks_are_shuffled_and_rotated(b: int, degrees: float, shape: tuple[int, ...]) -> None:
    found, model, x, y = followed(block_shuffle(b, degrees, copies=3), shape)
    draws = [drawn(1 + 2 * b + 3 * b * b, copy) for copy in (1, 2, 3)]

    def copies(draw: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.stack([shuffled(*one, b, degrees) for one in zip(x, draw, strict=True)])

    assert any((copies(draws[0])(x) != x).flatten(1).any(1))
    expected = torch.stack([gradient(model, y, x, copies(draw)) for draw in draws]).mean(0)
    torch.testing.assert_close(found, expected)


def test_flat_minima_mix_two_gradients_at_neighbors() -> None:
    found, model, x, y = followed(flat_minima(3, 2.0, 0.3, 0.5))
    total = torch.zeros_like(x)
    for copy in (1, 2, 3):
        near = x + 2.0 * 0.2 * (2 * drawn(84, copy).view_as(x) - 1)
        first = gradient(model, y, near, lambda x: x)
        mean = first.abs().mean((1, 2, 3), keepdim=True)
        total += 0.7 * first + 0.3 * gradient(model, y, near - 0.5 * 0.2 * first / mean, lambda x: x)
    torch.testing.assert_close(found, total / 3)


def test_flat_minima_stay_where_all_is_flat() -> None:
    net, x, y = scene()

    def model(z: Tensor) -> Tensor:
        near = (z[:, None] - x).flatten(2).abs().amax(2).argmin(1)  # whose point it is
        return net(z) * (IDS[near] > 3)[:, None]

    out = mim(model, x, y * (IDS > 3), Linf(0.2), gradient=flat_minima(2), ids=IDS)
    assert out.status[[0, 2]].tolist() == [Status.HELD, Status.HELD]


class Seen(list[Tensor], GradientRule):
    """The points at which a rule asks."""

    def __call__(self, search: Any, points: Tensor, ask: Any) -> Tensor:
        self.append(points)
        gradient: Tensor = ask(points)
        return gradient


@pytest.mark.parametrize("rule", [flat_minima(2), variance_tuning(2)])
def test_neighbors_stay_inside_the_mask(rule: GradientRule) -> None:
    model, x, y = scene()
    mask, seen = torch.arange(6) < 2, Seen()
    mim(model, x, y, Linf(0.2), steps=2, mask=mask.expand(2, 7, 6), gradient=[seen, rule], stop_early=False)
    assert len(seen) > 3
    assert all(torch.equal(points[..., 2:], x[..., 2:]) for points in seen)
    assert (seen[-1][..., :2] != x[..., :2]).all()


def test_a_gaussian_smooths_the_gradient() -> None:
    found, model, x, y = followed(translation_invariant(3, 1.0))
    line = torch.tensor([math.exp(-0.5), 1, math.exp(-0.5)]).double()
    kernel = line[:, None] * line / line.sum() ** 2
    padded = F.pad(gradient(model, y, x, lambda x: x), (1, 1, 1, 1))
    by_hand = sum(kernel[i, j] * padded[..., i : i + 7, j : j + 6] for i in range(3) for j in range(3))
    torch.testing.assert_close(found, by_hand)


class Stepped(list[float], GradientRule):
    """The step of the first sample at each question, by a memory that is written in place."""

    def __call__(self, search: Any, points: Tensor, ask: Any) -> Tensor:
        self.append(float(search.memory.setdefault("step", torch.zeros(len(points))).add_(1)[0]))
        gradient: Tensor = ask(points)
        return gradient


def test_neighbors_leave_what_other_rules_remember() -> None:
    model, x, y = scene()
    rule, (mine, alone) = Stepped(), (variance_tuning(2),) * 2
    out, plain = (
        mim(model, x, y, Linf(0.2), steps=3, loss="margin", gradient=rules, stop_early=False)
        for rules in ([rule, mine], alone)
    )
    assert rule == [1, 2, 3, 3, 3, 4, 4]
    assert torch.equal(out.x_adv, plain.x_adv)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diverse_inputs(1.5), "probability: "),
        (lambda: diverse_inputs(largest=0.9), "largest: "),
        (lambda: block_shuffle(0), "blocks: "),
        (lambda: translation_invariant(4), "size: expected an odd number"),
        (lambda: flat_minima(balance=2), "balance: "),
        (lambda: variance_tuning(0), "neighbors: "),
        (lambda: mim(*scene(), L2(1), gradient=flat_minima()), "flat_minima expected Linf"),
        (lambda: fmn(*scene(), Linf(1), steps=1, gradient=flat_minima()), "a minimum-norm attack searches"),
        (lambda: mim(*scene((9,)), L2(1), gradient=diverse_inputs()), "images"),
    ],
)
def test_wrong_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
