"""L1 and L0 attacks on a linear model of 3,072 inputs, where the optimum of ball and box is a greedy fill."""

from functools import cache

import pytest
import torch

import fastadv as fa
from fastadv.attacks import apgd, bim, fgsm, last_iterate, mim, pgd

SIZE = 3


@cache
def linear():
    """A two-class linear model whose margin has the gradient w, and w."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 2))
    weight = 0.05 * torch.randn(2, 3072, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[1].weight.copy_(weight)
        model[1].bias.zero_()
    return model, (weight[1] - weight[0]).double()


@cache
def images(kind):
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(SIZE, 3, 32, 32, generator=draw)
    if kind == "saturated":
        level = torch.rand(x.shape, generator=draw)
        x = torch.where(level < 0.35, 0.0, torch.where(level > 0.65, 1.0, x))
    return x if kind != "middle" else 0.45 + 0.1 * x


def shares(x_adv, x, y, norm, radius):
    """What x_adv gains on the margin, as shares of the most that ball and box allow."""
    gradient = torch.where(y == 0, 1.0, -1.0).double()[:, None] * linear()[1]
    at = x.flatten(1).double()
    room, steep = torch.where(gradient > 0, 1 - at, at), gradient.abs()
    if norm == "l0":
        best = (steep * room).sort(1, descending=True).values[:, :radius].sum(1)
    else:
        order = steep.argsort(1, descending=True)
        room, steep = room.gather(1, order), steep.gather(1, order)
        best = (steep * torch.minimum(room, (radius - room.cumsum(1) + room).clamp_min(0))).sum(1)
    return ((x_adv.double() - x.double()).flatten(1) * gradient).sum(1) / best


def attacked(run, kind, threat, **options):
    model, x = linear()[0], images(kind)
    with torch.no_grad():
        y = model(x).argmax(1)
    out = run(model, x, y, threat, loss="margin", stop_early=False, **options)
    assert threat.contains(out.x_adv, x).all()
    return shares(out.x_adv, x, y, threat.norm, threat.radius if threat.norm == "l1" else int(threat.radius))


@pytest.mark.parametrize("kind", ["uniform", "saturated", "middle"])
@pytest.mark.parametrize("radius", [12.0, 40.0])
@pytest.mark.parametrize(
    ("run", "steps", "least"),
    [
        (fgsm, None, 0.999),
        (pgd, 10, 0.96),
        (pgd, 100, 0.995),
        (bim, 40, 0.999),
        (mim, 10, 0.999),
        (apgd, 100, 0.97),
    ],
)
def test_l1_reaches_the_optimum(kind, radius, run, steps, least):
    options = {} if steps is None else {"steps": steps}
    share = attacked(run, kind, fa.L1(radius), **options)
    assert bool((share >= least).all()), share
    assert bool((share <= 1 + 1e-5).all())


@pytest.mark.parametrize("radius", [12.0, 40.0])
def test_the_last_point_of_l1_training_is_near_the_optimum(radius):
    model, x, threat = linear()[0], images("saturated"), fa.L1(radius)
    with torch.no_grad():
        y = model(x).argmax(1)
    z = last_iterate(
        fa.freeze(model),
        x,
        y,
        threat,
        steps=7,
        step_size=threat.default_step_size(7, 2.5),
        start=threat.random_start(x),
    )
    assert bool((shares(z, x, y, "l1", radius) >= 0.95).all())


@pytest.mark.parametrize("radius", [5, 50, 500])
@pytest.mark.parametrize(
    ("run", "steps"), [(fgsm, None), (pgd, 1), (pgd, 10), (pgd, 40), (bim, 10), (mim, 3)]
)
def test_l0_reaches_the_optimum(radius, run, steps):
    options = {} if steps is None else {"steps": steps}
    share = attacked(run, "saturated", fa.L0(radius), **options)
    assert bool((share >= 0.999).all()), share
