"""Published variants by hand, as the papers write them; more are in test_parity.py, beside others'."""

from math import inf, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softshrink

from fastadv.attacks import ATTACKS, cw, ead, fmn
from fastadv.threat import THREATS

from .nets import images, labels, mlp
from .watched import watched

pytestmark = pytest.mark.slow
BOX = (-1.0, 3.0)
STEPS = 12
SIZES = {"linf": inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}


def one() -> tuple[Any, Tensor, Tensor]:
    """A smooth net in float64, an image in BOX that takes several steps to break, and its label."""
    net, x = mlp(), images(60) * 4 - 1
    y = labels(net, (x + 1) / 4)

    def model(z: Tensor) -> Tensor:
        logits: Tensor = net((z + 1) / 4)
        return logits

    place = int((fmn(model, x, y, THREATS["l0"](inf, BOX), steps=20).distance > 2).nonzero()[0])
    return model, x[place : place + 1], y[place : place + 1]


def lead(model: Any, z: Tensor, y: Tensor) -> Tensor:
    """By how much the largest other logit exceeds that of the label."""
    logits = model(z)[0]
    return torch.cat([logits[: y[0]], logits[y[0] + 1 :]]).amax() - logits[y[0]]


def slope(model: Any, z: Tensor, y: Tensor) -> tuple[float, Tensor]:
    z = z.clone().requires_grad_()
    ahead = lead(model, z, y)
    return float(ahead.detach()), torch.autograd.grad(ahead, z)[0]


def length(away: Tensor, norm: str) -> float:
    return float(torch.linalg.vector_norm(away.flatten(), SIZES[norm]))


def asked(attack: Any, norm: str, **options: Any) -> tuple[list[Tensor], Any]:
    """The points at which the published variant asks for gradients, and its result."""
    model, x, y = one()
    function, seen = watched(model, gradients=True)
    return seen, attack(function, x, y, THREATS[norm](inf, BOX), variant="published", **options)


def same(seen: list[Tensor], expected: list[Tensor], tolerance: float = 1e-9) -> None:
    assert len(seen) == len(expected)
    for step, (point, wanted) in enumerate(zip(seen, expected, strict=True)):
        torch.testing.assert_close(point, wanted, rtol=0, atol=tolerance, msg=lambda m, n=step: f"{n}: {m}")


class Adam:
    def __init__(self) -> None:
        self.mean = self.square = self.count = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        spread = (self.square / (1 - 0.999**self.count)).sqrt() + 1e-8
        return self.mean / (1 - 0.9**self.count) / spread


def bend(w: Tensor) -> Tensor:
    return 1 + 2 * w.tanh()


def weighed(hit: bool, constant: float, low: float, high: float) -> tuple[float, float, float]:
    low, high = (low, min(high, constant)) if hit else (max(low, constant), high)
    return (10 * constant if high == inf else (low + high) / 2), low, high


def test_cw_in_linf() -> None:
    """Section VI.C: the constant doubles after a search without a success, tau falls after one with it."""
    model, x, y = one()
    w, adam = ((x - 1) / 2 * (1 - 1e-6)).atanh(), Adam()
    tau, constant, expected, ends = 4.0, 0.02, [], []
    while tau > 4 / 256 and constant < 20 * 4 and len(ends) < 12:
        solved = False
        for _ in range(STEPS):
            w.requires_grad_()
            z = bend(w)
            expected.append(z.detach())
            ahead = lead(model, z, y)
            cost = ((z - x).abs() - tau).clamp_min(0).sum() + constant * (-ahead).clamp_min(0)
            solved = bool(ahead > 0) and float(cost) < 1e-4 * constant
            if solved:
                break
            w = (w - 0.05 * adam(torch.autograd.grad(cost, w)[0])).detach()
        ends.append(solved)
        if solved:
            tau, adam, w = 0.9 * min(tau, length(z.detach() - x, "linf")), Adam(), w.detach()
        else:
            constant *= 2
    assert sum(ends) >= 2
    assert False in ends
    options = {"steps": STEPS, "searches": 12, "constant": 0.02, "step_size": 0.05}
    same(asked(cw, "linf", **options)[0], expected)


def test_ead() -> None:
    """Chen et al. 2018, algorithm 1: shrinkage by beta itself, and momentum that begins at 0."""
    model, x, y = one()
    constant, low, high, expected, hits, best = 0.1, 0.0, inf, [], [], inf
    for _ in range(6):
        before = after = x
        hit = False
        for step in range(STEPS):
            expected.append(after)
            ahead, gradient = slope(model, after, y)
            descent = 2 * (after - x) - (constant * gradient if ahead < 0 else 0)
            reached = x + softshrink(after - 0.05 * sqrt(1 - step / STEPS) * descent - x, 0.01)
            reached = reached.clamp(*BOX)
            after, before = reached + step / (step + 3) * (reached - before), reached
            if lead(model, reached, y) > 0:
                hit, best = True, min(best, length(reached - x, "l1"))
        hits.append(hit)
        constant, low, high = weighed(hit, constant, low, high)
    assert True in hits
    assert False in hits
    options = {"steps": STEPS, "searches": 6, "constant": 0.1, "step_size": 0.05, "beta": 0.01}
    seen, out = asked(ead, "l1", **options)
    same(seen, expected)
    assert float(out.distance) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("name", ["cw", "ead", "fmn", "pdgd", "pdpgd"])
def test_it_is_no_default_and_keeps_to_the_mask(name: str) -> None:
    entry = ATTACKS[name]
    model, x = mlp(), images(4)
    y, threat = labels(model, x), THREATS[entry.norms[-1]](inf)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    plain, ours, published = (
        entry.run(model, x, y, threat, **entry.quick, mask=mask, **options)
        for options in ({}, {"variant": "fastadv"}, {"variant": "published"})
    )
    assert torch.equal(plain.x_adv, ours.x_adv)
    assert not torch.equal(ours.x_adv, published.x_adv)
    assert torch.equal(published.x_adv[~mask], x[~mask])
