"""rho and gamma against closed forms, brute force, and each other."""

from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError
from papers.ilyas2019.usefulness import usefulness


def data(count=60, classes=3, shape=(1, 3, 3), seed=0):
    """Images whose brightness depends on the class; the classes have different sizes."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % (classes + 1) % classes
    x = torch.rand(count, *shape, generator=draw) * 0.6 + 0.12 * y[:, None, None, None]
    return fa.data.ImageSet(x, y, classes, "brightness")


def linear(features=5, classes=3, inputs=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, features), nn.Linear(features, classes))
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw))
    return net


def deep(features=6, classes=3, inputs=9, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, features), nn.Tanh(),
            nn.Linear(features, classes),
        )  # fmt: skip


def by_hand(values, low, high, y, classes):
    """rho and gamma as the definitions say, sample by sample."""
    scale, mean = values.std(0, correction=0), values.mean(0)
    f, low, high = ((each - mean) / scale for each in (values, low, high))
    rho, gamma = [], []
    for k in range(classes):
        label = torch.where(y == k, 1.0, -1.0).double()[:, None]
        useful = (label * f).mean(0)
        sign = torch.where(useful < 0, -1.0, 1.0).double()
        inf = torch.where(label * sign > 0, low, -high)
        rho.append(useful * sign)
        gamma.append(inf.mean(0))
    return torch.stack(rho, 1), torch.stack(gamma, 1)


@pytest.mark.parametrize("kind", [fa.Linf, fa.L2, fa.L1, fa.L0])
def test_linear_features_follow_the_definition(kind):
    base, net, threat = data(), linear(), kind(2.0 if kind is fa.L0 else 0.2)
    got = usefulness(net, base, threat)
    weight, bias = (part.detach().double() for part in (net[1].weight, net[1].bias))
    x = base.x.double().flatten(1)
    values = x @ weight.T + bias
    low, high = (torch.stack([threat.support(s * w.expand_as(x), x) for w in weight], 1) for s in (-1.0, 1.0))
    wanted = by_hand(values, values - low, values + high, base.y, 3)
    torch.testing.assert_close((got.rho, got.gamma), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_no_point_of_the_ball_is_worse_than_the_attack_says():
    """Brute force on three pixels of a network with kinks, in train mode, which it keeps."""
    base = data(16, 2, (1, 1, 3), seed=4)
    net, threat = deep(3, 2, 3, seed=5).train(), fa.Linf(0.15)
    got = usefulness(net, base, threat, partial(fa.attacks.pgd, steps=40, restarts=2), batch_size=7)
    assert net.training
    steps = torch.linspace(-0.15, 0.15, 21)
    points = (base.x.flatten(1)[:, None] + torch.cartesian_prod(steps, steps, steps)).clamp(0, 1)
    with torch.no_grad():
        values = net[:5](points.flatten(0, 1)).double().view(*points.shape[:2], -1)
        clean = net[:5](base.x).double()
    _, gamma = by_hand(clean, values.amin(1), values.amax(1), base.y, 2)
    torch.testing.assert_close(got.gamma, gamma, rtol=0, atol=0.005)


@pytest.mark.parametrize(
    ("weight", "bias", "constant"), [(0.0, 1.0, True), (1e-7, 0.0, False), (1e-4, 1e4, True)]
)
def test_a_feature_is_constant_by_its_own_size_and_then_has_no_gamma(weight, bias, constant):
    """One that varies within the rounding of large values is; one of tiny values is not."""
    base, net = data(), linear()
    with torch.no_grad():
        net[1].weight[2] *= weight
        net[1].bias[2] = bias
    got = usefulness(net, base, fa.L2(0.2))
    assert got.constant.tolist() == [False, False, constant, False, False]
    assert bool(got.gamma[2].isnan().all()) == constant
    assert (got.to_dict()["features"][2]["gamma"] is None) == constant


def test_features_that_are_not_linear_are_refused_without_an_attack():
    kinked = linear()
    with torch.no_grad():
        kinked[1].weight.abs_()
        kinked[1].bias.abs_()
    kinked.insert(2, nn.ReLU())  # linear at the samples alone
    for net in (deep(), kinked):
        with pytest.raises(InputError, match="not linear"):
            usefulness(net, data(), fa.L2(0.1))
