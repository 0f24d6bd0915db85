"""A kink at the edge of the box: attacks look a little inside, and the verdict names it."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import hardtanh, relu, threshold

import fastadv as fa
from fastadv.attacks.special import edge
from tests.attacks.masking.nets import honest
from tests.defenses import Defended, Pointwise

FRONTS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu, "hardtanh": lambda x: hardtanh(x, 0.0, 1.0), "log": lambda x: x.clamp(1e-3).log().exp(),
    "upper end": lambda x: 1 - relu(1 - x), "absolute": torch.abs,
    "wide clamp": lambda x: x.clamp(0.02, 0.98), "threshold": lambda x: threshold(x, 1e-4, 0.0),
    "half": lambda x: torch.cat([relu(x[..., :4]), x[..., 4:]], -1),
}  # fmt: skip
THREAT, TEST = fa.Linf(0.1), fa.data.load("digits", "test", limit=100)


@cache
def strength(name: str | None = None) -> tuple[list[float], list[Tensor]]:
    """What attacks in a ball leave of the net behind this front, and how far those without one go."""
    model = in_front(name) if name else honest("standard")
    within = fa.attacks.fgsm, *(partial(each, steps=15) for each in (fa.attacks.pgd, fa.attacks.apgd))
    free = fa.attacks.ddn, fa.attacks.deepfool
    left = [attack(model, TEST.x, TEST.y, THREAT).robust_accuracy for attack in within]
    outs = [attack(model, TEST.x, TEST.y, fa.L2(torch.inf), steps=30) for attack in free]
    return left, [out.distance.median() for out in outs]


def in_front(name: str) -> nn.Module:
    return Defended(honest("standard"), before=Pointwise(FRONTS[name])).eval()


def test_a_kink_is_looked_for_in_the_rows_that_are_attacked() -> None:
    """The first two of four samples are wrong already, and flat inside, too."""

    def model(x: Tensor) -> Tensor:
        total = relu(x[:, 1:]).flatten(1).sum(1) * (x[:, 0] > 0.5)
        return torch.stack([torch.full_like(total, 0.5), total], 1)

    x = torch.zeros(4, 5)
    x[2:, 0] = 1.0
    out = fa.attacks.bim(model, x, torch.tensor([1, 1, 0, 0]), fa.Linf(0.3), steps=3)
    assert out.success.all()


def test_those_that_stay_keep_their_depth_when_others_leave() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0], [1.0]]).expand(2, 8))
        model[1].bias.copy_(torch.tensor([0.2, 0.0]))
    x, y = torch.zeros(4, 8), torch.zeros(4).long()
    x[1:, 0] = 0.15  # these are nearer to the boundary
    out = fa.attacks.bim(model, x, y, THREAT, steps=6, step_size=0.01, stop_early=True)
    assert out.success.all()
    assert out.distance[0] > 2 * out.distance[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", FRONTS)
def test_attacks_are_as_strong_as_without_the_front(name: str) -> None:
    more, farther = (0.15, 1.15) if name == "wide clamp" else (0.02, 1.02)
    for left, wanted in zip(strength(name)[0], strength()[0], strict=True):
        assert abs(left - wanted) <= more
    for far, wanted in zip(strength(name)[1], strength()[1], strict=True):
        assert far <= farther * wanted


@pytest.mark.slow
def test_evaluate_and_autoattack_and_training_see_it() -> None:
    net, model = honest("standard"), in_front("relu")
    attacks = {
        "pgd": partial(fa.attacks.pgd, threat=THREAT, steps=15),
        "autoattack": partial(fa.attacks.autoattack, threat=THREAT, version=["apgd-ce", "fab"]),
    }
    left, wanted = (fa.evaluate(one, TEST, attacks, limit=50) for one in (model, net))
    for name in attacks:
        assert abs(left[name].robust_accuracy - wanted[name].robust_accuracy) <= 0.02
    assert "Do not trust (1 sign).\nedge_kink: " in left.verdict
    assert "of the coordinates on a bound" in left.verdict
    assert "edge_kink" not in wanted.verdict
    options = {"epochs": 1, "learning_rate": 1e-12, "test_set": TEST, "test_attacks": "pgd", "threat": THREAT}
    reports = [fa.train.fit(one, TEST, fa.train.Standard(), **options)[-1] for one in (model, net)]
    left, wanted = (report.robust_accuracy["pgd"] for report in reports)
    assert abs(left - wanted) <= 0.02


@pytest.mark.slow
def test_other_boxes_masks_and_restarts_see_it() -> None:
    net = honest("standard")
    shifted = tuple(
        Defended(one, before=Pointwise(lambda x: (x + 1) / 2)).eval() for one in (in_front("hardtanh"), net)
    )
    x, y, inside = 2 * TEST.x - 1, TEST.y, fa.Linf(0.2, box=(-1.0, 1.0))
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[..., 0] = False
    for options in ({"restarts": 2, "mask": mask}, {"targets": (y + 1) % 10, "eot": 2}):
        left, wanted = (fa.attacks.pgd(one, x, y, inside, steps=10, **options) for one in shifted)
        assert abs(left.success.double().mean() - wanted.success.double().mean()) <= 0.02


def test_only_a_derivative_that_comes_back_inside_counts() -> None:
    """Three rows: all flat on the bounds alone, flat everywhere, and flat in too few places."""
    box, x = (0.0, 2.0), torch.zeros(3, 40)
    x[:, 20:] = 2.0
    gradients = torch.ones(3, 40)
    gradients[:2], gradients[2, :2] = 0.0, 0.0
    asked: list[Tensor] = []

    def ask(points: Tensor, rows: Tensor) -> Tensor:
        asked.append(points)
        off = (points > 0) & (points < 2)
        return (off & (rows[:, None] == 0) & ((points > 1e-3) & (points < 1.999))).float()

    depths, shares = edge.kinks(x, gradients, box, ask)
    assert edge.may_be(x, gradients, box)
    assert torch.equal(depths, torch.tensor([1e-2, 0.0, 0.0]))
    assert torch.equal(shares, torch.tensor([1.0, 0.0, 0.0]))
    assert [len(points) for points in asked] == [2, 2, 2, 1]
    for points, depth in zip(asked, (0.0, 2e-4, 2e-2, 2e-1), strict=True):
        assert (points - x[: len(points)]).abs().amax() == pytest.approx(depth, abs=1e-6)
    asked.clear()
    # no coordinate lies on a bound, none is flat, or too few are
    for points, gradient in ((x + 0.5, gradients), (x, torch.ones(3, 40)), (x[2:], gradients[2:])):
        edge.kinks(points, gradient, box, ask)
        assert not edge.may_be(points, gradient, box)
    assert not asked


def test_values_with_a_derivative_stay_where_they_are() -> None:
    """Background that a net does not see in an ordinary image is no reason to look at another image."""
    x, asked = torch.zeros(1, 40), list[Tensor]()

    def pull(points: Tensor) -> tuple[Tensor, ...]:
        asked.append(points)
        gradient = (points > 1e-3).float()
        gradient[:, 20:] = 2 + points[:, 20:]
        return points.sum(1), points[:, :2], gradient

    at = edge.Edge((0.0, 1.0))
    for _ in range(2):
        *_, gradient = at.around(x, pull, lambda points, rows: pull(points)[-1])
        assert torch.equal(asked[-1], torch.cat([torch.full((1, 20), 0.01), x[:, 20:]], 1))
        assert torch.equal(gradient, torch.cat([torch.ones(1, 20), torch.full((1, 20), 2.0)], 1))
