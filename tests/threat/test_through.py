"""Maps of parameters: what each of them does to an image, against loops and slices."""

from collections.abc import Callable
from dataclasses import replace
from math import cos, floor, radians, sin

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.threat import THREATS, Through
from tests.attacks.nets import images
from tests.refusals import refuses

SHAPES = [(1, 5, 7), (3, 4, 4), (3, 7, 2), (1, 1, 3)]
MAPS: dict[str, Callable[[tuple[int, ...]], Through]] = {
    "moved": lambda shape: fa.Moved(1, 15),
    "patch": lambda shape: fa.Patch((1, 2)),
    "patch anywhere": lambda shape: fa.Patch((1, 2), "any"),
    "scaled": lambda shape: fa.Scaled(images(1, shape, seed=5)[0] / 2),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_a_map_leaves_x_as_it_is_and_images_in_the_box(name: str, shape: tuple[int, ...]) -> None:
    threat, x = MAPS[name](shape), images(6, shape)
    x[0], x[1] = x[0].round(), 1.0
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        rows = x.to(dtype)
        t = threat.parameters(rows)  # which are checked
        image = threat.image(threat.random_start(t), rows)
        assert image.dtype == dtype
        threat.check_images(image)
        assert not torch.equal(image, rows)
        assert torch.equal(threat.with_radius(0.0).random_start(t), t)


@pytest.mark.parametrize("name", MAPS)
def test_an_image_comes_from_its_own_row_and_follows_its_gradient(name: str) -> None:
    shape = (3, 5, 7)
    threat, x, ids = MAPS[name](shape), images(5, shape), torch.arange(5)
    t = threat.random_start(threat.parameters(x, ids), ids=ids)
    t = (t * 0.9).requires_grad_()  # off the ends, at which rounding may clamp
    image = threat.image(t, x, ids)
    for row in range(5):
        alone = slice(row, row + 1)
        assert torch.equal(threat.image(t[alone], x[alone], ids[alone]), image[alone])
    way, weight = images(5, t.shape[1:], seed=2) - 0.5, images(5, shape, seed=3)
    (gradient,) = torch.autograd.grad((image * weight).sum(), t)
    step = 1e-6 * way
    ahead, behind = (threat.image(t.detach() + side * step, x, ids) for side in (1, -1))
    if name != "scaled":  # whose gradient ignores the clamp
        slope = ((ahead - behind) * weight).sum() / 2e-6
        torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-5, atol=1e-7)
    assert gradient.flatten(1).abs().amax(1).min() > 0


def turned(x: Tensor, right: float, down: float, degrees: float) -> Tensor:
    """Rotate x [H, W] about its center, then shift it: pixel by pixel, zeros from outside."""
    height, width = x.shape
    angle, image = radians(degrees), torch.zeros_like(x)
    for row in range(height):
        for column in range(width):
            a, b = column - (width - 1) / 2 - right, row - (height - 1) / 2 - down
            u = cos(angle) * a + sin(angle) * b + (width - 1) / 2
            v = cos(angle) * b - sin(angle) * a + (height - 1) / 2
            for i in (floor(v), floor(v) + 1):
                for j in (floor(u), floor(u) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        image[row, column] += x[i, j] * (1 - abs(v - i)) * (1 - abs(u - j))
    return image


def test_moved_is_a_rotation_and_then_a_shift() -> None:
    x, threat = images(1, (2, 5, 7)), fa.Moved(3, 40)
    for t in ([0.3, -0.8, 0.6], [1.0, 1.0, -1.0], [-0.25, 0.5, 0.0], [0.0, 0.0, 0.7]):
        moved = threat.image(torch.tensor([t], dtype=torch.float64), x)[0]
        for channel in range(2):
            expected = turned(x[0, channel], 3 * t[0], 3 * t[1], 40 * t[2])
            torch.testing.assert_close(moved[channel], expected, rtol=0, atol=1e-12)


def test_a_patch_is_where_it_belongs() -> None:
    x, t = images(3, (2, 5, 8)), images(3, (2, 2, 3), seed=2)
    expected = x.clone()
    expected[:, :, 1:3, 5:] = t
    assert torch.equal(fa.Patch((2, 3), place=(1, 5)).image(t, x), expected)
    center = x.clone()
    center[:, :, 1:3, 2:5] = t
    assert torch.equal(fa.Patch((2, 3)).image(t, x), center)
    for place in ((4, 0), (0, 6)):
        refuses("patch inside images of 5 by 8", fa.Patch((2, 3), place).image, t, x)
    refuses("patch inside images", fa.Patch((6, 3)).image, t, x)


def test_every_place_is_drawn_and_none_outside() -> None:
    """The last row and column, too, which other libraries never draw."""
    ids, white = torch.arange(1000), torch.zeros(1000, 1, 4, 5)

    def corners(threat: Through, ids: Tensor, draw: int = 0) -> list[tuple[int, int]]:
        image = threat.image(torch.ones(len(ids), 1, 2, 2), white[: len(ids)], ids, draw)
        assert (image.flatten(1).sum(1) == 4).all()
        places = image.flatten(1).argmax(1).tolist()
        return [(place // 5, place % 5) for place in places]

    threat = fa.Patch((2, 2), "any")
    drawn = corners(threat, ids)
    assert set(drawn) == {(row, column) for row in range(3) for column in range(4)}
    assert min(map(drawn.count, set(drawn))) > 40  # of 83 on average
    # places follow (seed, id, draw), whatever the batch
    assert corners(threat, ids[500:510]) == drawn[500:510]
    others = [corners(threat, ids, draw=1), corners(fa.Patch((2, 2), "any", seed=1), ids)]
    assert all(sum(a == b for a, b in zip(drawn, other, strict=True)) < 200 for other in others)


def test_budgets_are_never_exceeded_and_ranges_kept() -> None:
    budgets = torch.tensor([0.1, 3.0, 0.0, 7.3])
    box = torch.tensor([-1.0, 0.0, 0.0, 10.0]), torch.tensor([1.0, 100.0, 0.5, 30.0])
    threat = fa.Scaled(budgets, box)
    share = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0))
    x = box[0] + (box[1] - box[0]) * share
    for t in (torch.ones_like(x), -torch.ones_like(x), 2 * share.flip(0) - 1):
        image = threat.image(t, x)
        assert ((image.double() - x.double()).abs() <= budgets.double()).all()
        assert ((image >= box[0]) & (image <= box[1])).all()
    # a start beyond the range does not hold a feature there
    t = torch.full((1, 4), -0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(threat.image(t, box[0][None]).sum(), t)
    assert torch.equal(gradient, budgets[None])


def test_a_ball_of_images_maps_them_to_themselves() -> None:
    x = images(2)
    for kind in THREATS.values():
        assert kind(1.0).still(x) is x
        assert kind(1.0).image(x, x) is x


def test_what_a_map_is_asked_of_its_ball() -> None:
    ball = fa.L2(torch.tensor([0.5, 1.0]), box=(-1.0, 2.0))
    threat = Through(torch.add, ball, torch.zeros_like, box=(0.0, 3.0), name="added")
    t, away = torch.zeros(2, 4), torch.rand(2, 4)
    assert torch.equal(threat.project(away * 9, t), ball.project(away * 9, t))
    assert torch.equal(threat.step(t, away, t, 0.1), ball.step(t, away, t, 0.1))
    assert torch.equal(threat.random_start(t, 3), ball.random_start(t, 3))
    assert torch.equal(threat.distance(away, t), ball.distance(away, t))
    assert (threat.box, threat.finite, threat.norm) == ((0.0, 3.0), True, "added")
    assert torch.equal(threat.take(torch.tensor([1])).ball.radius, torch.tensor([1.0]))
    assert threat.with_radius(2.0).text == "added 2"
    assert replace(threat, name="").name == "Through add"


def test_wrong_maps_are_answered() -> None:
    x = images(2)
    for call, message in (
        (lambda: Through(torch.add, 0.3, torch.zeros_like), "ball: expected fa.Linf"),
        (lambda: Through(torch.add, fa.Moved(1, 1), torch.zeros_like), "ball: .* one function"),
        (lambda: Through(None, fa.Linf(1), torch.zeros_like), "map: expected a function"),
        (lambda: fa.Moved(-1, 3), "pixels: expected a finite number >= 0"),
        (lambda: fa.Moved(1, 3, box=(1.0, 2.0)), "box: expected one with 0"),
        (lambda: fa.Moved(1, 3).parameters(x.flatten(1)), "expected images"),
        (lambda: fa.Patch((2,)), "size: expected a pair"),
        (lambda: fa.Patch((2, 0)), "size"),
        (lambda: fa.Patch((2, 2), "top"), "place: expected a pair"),
        (lambda: fa.Patch((2, 2), box=(0, float("inf"))), "box: expected a finite one"),
        (lambda: fa.Scaled(0.3), "use fa.Linf"),
        (lambda: fa.Scaled(torch.tensor([-1.0])), "budgets >= 0"),
        (lambda: fa.Scaled(torch.ones(2), (0, torch.ones(3))), "ends like one sample"),
        (lambda: fa.Scaled(torch.ones(2), (0, torch.tensor([1.0, 0.0]))), "lo < hi"),
        (lambda: fa.Scaled(torch.ones(2)).image(torch.zeros(1, 3), torch.zeros(1, 3)), "like the budgets"),
        (
            lambda: fa.Scaled(torch.ones(3)).image(torch.zeros(1, 50, 3), torch.zeros(1, 50, 3)),
            r"got \(50, 3\); give budgets.expand\(50, 3\)$",
        ),
        (lambda: fa.Moved(1, 3).contains(x, x), "contains: expected parameters"),
        (lambda: fa.Moved(1, 3).measure(x, x), "contains: expected parameters"),
        (lambda: Through(torch.add, fa.Linf(1), torch.ones_like).parameters(x), "differ by up to 1"),
        (lambda: Through(torch.add, fa.Linf(1), lambda x: 0).parameters(x), "still: .* got int"),
        (lambda: Through(lambda x, t: x[:1], fa.Linf(1), torch.zeros_like).parameters(x), "images like x"),
    ):  # fmt: skip
        refuses(message, call)


def test_the_name_of_a_table_tells_its_budgets() -> None:
    assert fa.Scaled(torch.full((2, 2), 0.02)).symbol == "Scaled 0.02"
    assert fa.Scaled(torch.tensor([[0.5, 0.02]])).symbol == "Scaled 0.02 to 0.5"


def test_each_feature_lies_in_its_own_range() -> None:
    threat = fa.Scaled(torch.ones(2), (torch.tensor([0.0, 0.2]), torch.tensor([1.0, 0.5])))
    for value in (0.2, 0.5):
        assert not threat.parameters(torch.tensor([[0.9, value]])).any()
    for value in (0.1, 0.6):
        refuses("each feature in its own range", threat.parameters, torch.tensor([[0.9, value]]))


def test_what_leaves_x_as_it_is_may_depend_on_the_draw_and_the_ids() -> None:
    def still(x: Tensor, ids: Tensor, draw: int) -> Tensor:
        return torch.zeros_like(x) + ids[:, None] + draw / 4

    threat = Through(lambda x, t, ids, draw: x + (t - still(x, ids, draw)), fa.Linf(1), still)
    x, ids = torch.rand(2, 3), torch.tensor([5, 2])
    assert torch.equal(threat.parameters(x, ids, 2), still(x, ids, 2))
    assert torch.equal(threat.parameters(x), still(x, torch.arange(2), 0))
    assert torch.equal(threat.image(still(x, ids, 3), x, ids, 2), x + 0.25)
