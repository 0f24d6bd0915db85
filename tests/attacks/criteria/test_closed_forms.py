"""Linear models of other outputs, whose strongest and nearest points are known."""

from collections.abc import Callable
from functools import partial
from math import inf

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, Beyond, Share, Signs
from fastadv.threat import THREATS

from ..nets import images

ANYWHERE = (-inf, inf)
DUAL = {"linf": 1, "l2": 2}
D = 16


def linear(outputs: int, alike: bool = False) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Outputs w x + b, all with one w where they are `alike`; with w [outputs, D] and x [5, 1, 4, 4]."""
    draw = torch.Generator().manual_seed(2)
    weight = torch.randn(1 if alike else outputs, D, generator=draw, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, outputs)).double()
    with torch.no_grad():
        model[1].weight.copy_(weight.expand(outputs, D))
        model[1].bias.copy_(torch.randn(outputs, generator=draw, dtype=torch.float64))
    return model, model[1].weight.detach(), images(5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("search", [fa.attacks.pgd, fa.attacks.apgd, fa.attacks.bim])
def test_regression(search: Callable[..., AttackResult], norm: str) -> None:
    """The error grows by radius times the dual norm."""
    model, weight, x = linear(1)
    y = model(x).detach() + torch.tensor([[3.0], [-3.0], [2.0], [-2.0], [5.0]])
    out = search(model, x, y, THREATS[norm](0.1, ANYWHERE), steps=40, stop_early=False, criterion=Beyond(100))
    longest = (model(x) - y).abs() + 0.1 * weight.norm(DUAL[norm], dim=1)
    reached = (model(out.x_adv) - y).abs()
    assert (reached <= longest + 1e-6).all()
    assert (reached >= longest * (1 - (1e-6 if norm == "linf" else 5e-3))).all()


@pytest.mark.parametrize("search", [fa.attacks.pgd, fa.attacks.apgd, fa.attacks.bim])
def test_a_number_is_led_to_both_sides_of_y(search: Callable[..., AttackResult]) -> None:
    """The first error, of a hundredth, leads to one of 0.26, or 0.01 at the edge; across y lies 2 - 0.01."""
    weight = torch.randn(D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        share = (x - 0.5).flatten(1) @ (weight / weight.norm(1)) / 0.1
        return (share + share.square())[:, None]

    for side in (1, -1):
        x, y, threat = torch.full((3, 1, 4, 4), 0.5).double(), torch.full((3, 1), 0.01 * side), fa.Linf(0.1)
        ask = partial(search, lambda x, side=side: side * model(x), x, steps=40)
        assert ask(y, threat, criterion=Beyond(inf)).loss.tolist() == pytest.approx([1.99] * 3)
    out = fa.attacks.fmn(model, x, -y, fa.Linf(inf), criterion=Beyond(0.24))
    assert out.distance.tolist() == pytest.approx([0.05 * (2**0.5 - 1)] * 3, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("alike", [False, True], ids=["signs", "positions of one weight"])
@pytest.mark.parametrize(
    ("search", "norm"),
    [(fa.attacks.ddn, "l2"), (fa.attacks.fmn, "l2"), (fa.attacks.fmn, "linf"), (fa.attacks.pdpgd, "l2"),
     (fa.attacks.pdpgd, "linf")],
)  # fmt: skip
def test_minimum_distances(search: Callable[..., AttackResult], norm: str, alike: bool) -> None:
    """The nearest wrong sign is that of the smallest output over the dual norm of its weight."""
    model, weight, x = linear(9 if alike else 4, alike)
    if alike:  # the classes all lie on one side, so that one direction breaks them all
        with torch.no_grad():
            model[1].bias.add_(1 - model(x).amin())
    z = model(x).detach()
    away, y = z.abs() / weight.norm(DUAL[norm], dim=1), (z > 0).long()
    place = torch.full((5,), 4) if alike else torch.arange(5) % 2
    if not alike:  # of each second sample that sign is ignored
        y[1::2] = y[1::2].scatter(1, away[1::2].argmin(1, keepdim=True), -1)
    criterion = Share(5 / 9) if alike else Signs()
    out = search(model, x, y, THREATS[norm](inf, ANYWHERE), steps=100, criterion=criterion)
    distance = away.sort(1).values.gather(1, place[:, None]).squeeze(1)
    assert out.success.all()
    assert (out.distance >= distance * (1 - 1e-5)).all()
    assert (out.distance <= distance * 1.05).all()


@pytest.mark.parametrize(
    "search",
    [partial(fa.attacks.sea, steps=20), partial(fa.attacks.segpgd, steps=20),
     partial(fa.attacks.pgd, steps=20, stop_early=False)],
    ids=["sea", "segpgd", "pgd"],
)  # fmt: skip
def test_positions_of_their_own_pixels(search: Callable[..., AttackResult]) -> None:
    """In Linf all those are wrong whose margin is below radius times the weight, and no others."""
    model = nn.Conv2d(1, 2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1))
        model.bias.copy_(torch.tensor([0.0, 1.5]))
    x = images(5, (1, 6, 6))
    gap = model(x).detach().diff(dim=1).abs().squeeze(1)
    y = model(x).argmax(1)
    y[:, 0, :3] = 7
    out = search(model, x, y, fa.Linf(0.1, ANYWHERE), criterion=Share(1.0, ignore=7))
    assert torch.equal((model(out.x_adv).argmax(1) != y) & (y != 7), (gap < 0.3) & (y != 7))
