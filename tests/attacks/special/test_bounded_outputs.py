"""Outputs squashed into an interval: attacks find what they find on the logits, or a sign says why not."""

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy,
    hardsigmoid,
    logsigmoid,
    mse_loss,
    one_hot,
    relu6,
    softsign,
)

import fastadv as fa
from fastadv.attacks.special.bounded_outputs import SYMMETRIC, UNIT, UNKNOWN, bounded, falls_off, unbent
from fastadv.engine import Plain
from fastadv.rng import generators_kept
from tests.attacks.masking.nets import HONEST, honest
from tests.defenses import Defended, Pointwise

HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softsign": softsign, "erf": torch.erf,
    "algebraic": lambda z: z / (1 + z * z).sqrt(), "arctangent": torch.atan,
    "percent": lambda z: 100 * torch.sigmoid(z), "wide": lambda z: 5 * torch.tanh(z / 5) - 2,
    "relu6": relu6, "hardsigmoid": hardsigmoid, "clamp": lambda z: z.clamp(-5, 5), "logsigmoid": logsigmoid,
}  # fmt: skip
# robust accuracy that a head may add; float32 holds most of a tanh at its ends, of the others their sum
SLACK = {"sigmoid": 0.03, "tanh": 0.08, "algebraic": 0.17}
THREAT = fa.Linf(0.1)
TEST = fa.data.load("digits", "test", limit=150)


def behind(name: str, net: nn.Module) -> nn.Module:
    return Defended(net, after=Pointwise(HEADS[name])).eval()


@cache
def trained(head: str, squared: bool = False) -> nn.Module:
    """A net that was trained through a head by the cross-entropy of each class, or without by squares."""
    data, widths = fa.data.load("digits", "train"), (64, 128, 128, 10)
    with generators_kept(torch.device("cpu"), 0):
        layers = [each for a, b in pairwise(widths) for each in (nn.Linear(a, b), nn.GELU())]
        net = nn.Sequential(nn.Flatten(), *layers[:-1])
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        for _ in range(20):
            for rows in torch.randperm(len(data.x)).split(64):
                z, wanted = net(data.x[rows]), one_hot(data.y[rows], 10).float()
                loss = mse_loss(z, wanted) if squared else binary_cross_entropy(z.sigmoid(), wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize("head", SLACK)
@pytest.mark.parametrize("name", ["standard", "trained through it"])
def test_attacks_are_as_strong_as_on_the_logits(name: str, head: str) -> None:
    net = trained("sigmoid") if name.startswith("trained") else honest(name)
    squashed = behind(head, net)
    for attack in (fa.attacks.pgd, fa.attacks.apgd):
        left, wanted = (attack(one, TEST.x, TEST.y, THREAT).robust_accuracy for one in (squashed, net))
        assert left <= wanted + SLACK[head]
    minimum, wanted = (
        fa.attacks.ddn(one, TEST.x, TEST.y, fa.L2(torch.inf), steps=40).distance for one in (squashed, net)
    )
    assert minimum.median() <= (1 + SLACK[head]) * wanted.median()


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_every_head_that_bends_the_loss_raises_the_sign(head: str) -> None:
    report = fa.attacks.indicators(behind(head, honest("vit")), TEST.x[:60], TEST.y[:60], THREAT)
    assert "bounded_outputs" in report.flagged
    assert "return the logits" in report.verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HONEST if name != "abs"])
def test_honest_nets_are_attacked_as_before(name: str) -> None:
    assert bounded(honest(name)(TEST.x).detach()) is None
    assert falls_off(Plain(honest(name)), TEST.x[:8]) == 0


@pytest.mark.slow
def test_outputs_that_crowd_without_a_head_raise_none() -> None:
    net = trained("none", squared=True)
    logits = net(TEST.x).detach()
    assert ((logits - logits.min()) / (logits.max() - logits.min()) < 0.4).double().mean() > 0.8
    assert falls_off(Plain(net), TEST.x[:8]) < 0.6
    # outputs scaled until nothing saturates are not bent, either
    faint = Defended(honest("vit"), after=Pointwise(lambda z: torch.tanh(z / 100))).eval()
    assert falls_off(Plain(faint), TEST.x[:8]) < 0.6


def linear(classes: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    with generators_kept(torch.device("cpu"), 1):
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
        x = torch.rand(9, 3, 4).double()
    with torch.no_grad():
        net[1].weight *= 8  # beyond the range that ce_sharp scales up to
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("classes", [4, 5])
def test_of_few_classes_known_intervals_alone_are_told(classes: int) -> None:
    net, x, _ = linear(classes)  # as a recurrent net is bounded where it is sure
    assert falls_off(Plain(behind("sigmoid", net)), x) > 0.6
    assert (falls_off(Plain(behind("percent", net)), x) > 0.6) == (classes > 4)


@pytest.mark.parametrize(("head", "interval"), [("sigmoid", UNIT), ("tanh", SYMMETRIC)])
@pytest.mark.parametrize("loss", ["ce_sharp", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_gradient_in_a_known_interval_is_that_of_the_logits(head, interval, loss, targeted):
    net, x, y = linear()
    aims = (y + 2) % 6 if targeted else None
    value, logits, gradient = unbent(Plain(behind(head, net)), x, y, loss, aims, torch.full((9,), interval))
    wanted = Plain(net).input_gradient(x, y, loss, aims)[2]
    cosine = torch.cosine_similarity(gradient.flatten(1), wanted.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(9).double())
    torch.testing.assert_close(logits, HEADS[head](net(x)).detach())
    torch.testing.assert_close(value, fa.losses.loss_value(logits, y, loss, aims))


@pytest.mark.parametrize("head", ["arctangent", "percent", "sigmoid", "wide"])
def test_the_gradient_in_another_interval_is_the_same_behind_any_head(head: str) -> None:
    net, x, y = linear()
    kind = torch.full((9,), UNKNOWN)
    made = [unbent(Plain(each), x, y, "margin", None, kind)[2] for each in (net, behind(head, net))]
    torch.testing.assert_close(*made)
    # rows of other kinds beside it keep their own
    mixed = torch.tensor([0, UNIT, UNKNOWN] * 3)
    squashed = Plain(behind("sigmoid", net))
    several = unbent(squashed, x, y, "ce_sharp", None, mixed)[2]
    for row in range(9):
        one = slice(row, row + 1)
        alone = unbent(squashed, x[one], y[one], "ce_sharp", None, mixed[one])[2]
        cosine = torch.cosine_similarity(several[one].flatten(), alone.flatten(), 0)
        torch.testing.assert_close(cosine, torch.ones(()).double())
    # and its length, where the distance to the boundary is read from it
    several = unbent(squashed, x, y, "margin", None, mixed, exact=True)[2]
    for kind in (0, UNIT, UNKNOWN):
        some = mixed == kind
        alone = unbent(squashed, x[some], y[some], "margin", None, mixed[some], exact=True)[2]
        torch.testing.assert_close(several[some], alone)


def test_the_interval_of_a_row_is_told_by_its_own_outputs() -> None:
    crowd = [-3.0, -2.99, -2.99, -2.98, 4.0]
    rows = torch.tensor([
        [0.0, 0.05, 0.5, 0.7, 1.0], [-1.0, -0.95, 0.5, 0.7, 0.9], crowd, [0.0, 0.4, 0.5, 0.6, 1.0],
        [-5.0, 2.0, 0.5, 0.1, 9.0], [-0.3, 0.2, 0.5, 0.1, 0.4],
    ])  # fmt: skip
    kinds = bounded(rows)
    assert kinds is not None
    assert kinds.tolist() == [UNIT, SYMMETRIC, UNKNOWN, 0, 0, 0]
    assert bounded(rows[3:]) is None
    assert bounded(torch.tensor([[1.0, 1.01, 1.02, 9.0]])) is None  # of few classes that is chance
    assert bounded(torch.tensor([[0.0, 0.0, 0.0, 0.0, 9.0]])) is None  # nor is one that ever differs a crowd


NEAREST: dict[str, Callable[..., fa.attacks.AttackResult]] = {
    "cw": partial(fa.attacks.cw, steps=40, searches=3), "deepfool": fa.attacks.deepfool,
    "superdeepfool": fa.attacks.superdeepfool, "fab": partial(fa.attacks.fab, steps=40),
    "lbfgs": partial(fa.attacks.lbfgs, steps=30), "ead": partial(fa.attacks.ead, steps=40, searches=3),
    "fmn": partial(fa.attacks.fmn, steps=100),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NEAREST)
def test_a_sigmoid_hides_no_near_success(name: str) -> None:
    model, x, y = trained("sigmoid"), TEST.x[:40], TEST.y[:40]
    threat = fa.L1(torch.inf) if name == "ead" else fa.L2(torch.inf)
    plain, squashed = (NEAREST[name](each, x, y, threat) for each in (model, behind("sigmoid", model)))
    assert plain.flags == ()
    assert squashed.distance.median() == pytest.approx(float(plain.distance.median()), rel=0.05)
    assert squashed.success.sum() >= plain.success.sum()


FLAGGED = {each: HEADS[each] for each in ("tanh", "arctangent", "softsign", "clamp")}
FLAGGED |= {"scaled": lambda z: torch.linspace(0.9, 1.1, 10) * torch.tanh(z)}


@pytest.mark.slow
@pytest.mark.parametrize("head", FLAGGED)
def test_a_result_behind_another_head_has_a_flag(head: str) -> None:
    squashed = Defended(honest("standard"), after=Pointwise(FLAGGED[head])).eval()
    for run, threat in ((fa.attacks.fgsm, THREAT), (fa.attacks.deepfool, fa.L2(torch.inf))):
        assert any(flag.startswith("bounded_outputs") for flag in run(squashed, TEST.x, TEST.y, threat).flags)
        assert run(honest("standard"), TEST.x, TEST.y, threat).flags == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [fa.train.PGDTraining, fa.train.FGSMTraining, fa.train.MART, fa.train.TRADES]
)
def test_what_recipes_craft_behind_a_sigmoid(recipe: Callable[..., Any]) -> None:
    nets, shares = (honest("standard"), behind("sigmoid", honest("standard"))), list[Tensor]()
    for net in nets:
        x_adv = fa.train.craft(recipe(THREAT), net, TEST.x, TEST.y, seed=0)
        shares.append((net(x_adv).argmax(1) == TEST.y).double().mean())
    assert shares[1] <= shares[0] + 0.04
