"""rho and gamma against closed forms, brute force, and each other."""

from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError
from papers.ilyas2019.usefulness import Kind, usefulness

PGD = partial(fa.attacks.pgd, steps=6)


def data(count=60, classes=3, shape=(1, 3, 3), seed=0, box=(0.0, 1.0)):
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
    """rho, gamma and sign as the definitions say, sample by sample."""
    scale, mean = values.std(0, correction=0), values.mean(0)
    f, low, high = ((each - mean) / scale for each in (values, low, high))
    rho, gamma, signs = [], [], []
    for k in range(classes):
        label = torch.where(y == k, 1.0, -1.0).double()[:, None]
        useful = (label * f).mean(0)
        sign = torch.where(useful < 0, -1.0, 1.0).double()
        inf = torch.where(label * sign > 0, low, -high)
        rho.append(useful * sign)
        gamma.append(inf.mean(0))
        signs.append(sign.long())
    return torch.stack(rho, 1), torch.stack(gamma, 1), torch.stack(signs, 1)


@pytest.mark.parametrize("kind", [fa.Linf, fa.L2, fa.L1, fa.L0])
def test_linear_features_follow_the_definition(kind):
    base, net, threat = data(), linear(), kind(2.0 if kind is fa.L0 else 0.2)
    got = usefulness(net, base, threat)
    weight, bias = (part.detach().double() for part in (net[1].weight, net[1].bias))
    x = base.x.double().flatten(1)
    values = x @ weight.T + bias
    low, high = (torch.stack([threat.support(s * w.expand_as(x), x) for w in weight], 1) for s in (-1.0, 1.0))
    rho, gamma, sign = by_hand(values, values - low, values + high, base.y, 3)
    for mine, theirs in ((got.rho, rho), (got.gamma, gamma), (got.mean, values.mean(0))):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert torch.equal(got.sign, sign)
    assert got.exact
    assert got.counts.tolist() == base.y.bincount().tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threat", "step_size", "steps", "apart"),
    # a step of L1 moves one coordinate, and the projection takes a little from all
    [(fa.Linf(0.1), 0.05, 10, 1e-3), (fa.L2(0.3), 0.1, 40, 1e-3), (fa.L1(0.5), 0.1, 40, 0.03)],
    ids=lambda value: getattr(value, "norm", None),
)
def test_pgd_reaches_the_closed_form(threat, step_size, steps, apart):
    base, net = data(24), linear()
    exact = usefulness(net, base, threat)
    pgd = partial(fa.attacks.pgd, steps=steps, step_size=step_size)
    attacked = usefulness(net, base, threat, pgd)
    torch.testing.assert_close(attacked.gamma, exact.gamma, rtol=apart, atol=apart)
    assert bool((attacked.gamma >= exact.gamma - 1e-5).all())
    torch.testing.assert_close(attacked.rho, exact.rho)
    assert not attacked.exact


@pytest.mark.slow
def test_no_point_of_the_ball_is_worse_than_the_attack_says():
    """Brute force on three pixels of a network with kinks."""
    base = data(16, 2, (1, 1, 3), seed=4)
    net, threat = deep(3, 2, 3, seed=5), fa.Linf(0.15)
    strong = partial(fa.attacks.pgd, steps=40, restarts=2)
    got = usefulness(net, base, threat, strong)
    steps = torch.linspace(-0.15, 0.15, 21)
    grid = torch.cartesian_prod(steps, steps, steps)
    points = (base.x.flatten(1)[:, None] + grid).clamp(0, 1)
    with torch.no_grad():
        values = net[:5](points.flatten(0, 1)).double().view(*points.shape[:2], -1)
        clean = net[:5](base.x).double()
    _, gamma, _ = by_hand(clean, values.amin(1), values.amax(1), base.y, 2)
    torch.testing.assert_close(got.gamma, gamma, rtol=0, atol=0.005)


@pytest.mark.slow
def test_any_batch_size_and_any_choice_of_features_give_the_same():
    base, net = data(12, 2), deep(classes=2)
    whole = usefulness(net, base, fa.L2(0.3), PGD)
    part = usefulness(net, base, fa.L2(0.3), PGD, batch_size=7)
    torch.testing.assert_close(part.gamma, whole.gamma, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part.rho, whole.rho, rtol=1e-5, atol=1e-6)
    for features in ([4, 1], [3]):
        chosen = usefulness(net, base, fa.L2(0.3), PGD, features=features)
        assert chosen.features.tolist() == features
        torch.testing.assert_close(chosen.gamma, whole.gamma[features], rtol=1e-4, atol=1e-5)


def test_far_from_zero_nothing_cancels():
    """A mean square minus a squared mean would lose a deviation of 1 at a mean of 10^7."""
    base, net = data(), linear().double()
    with torch.no_grad():
        net[1].bias += 1e7
    shifted = usefulness(net, base, fa.L2(0.1), batch_size=13)
    with torch.no_grad():
        net[1].bias -= 1e7
    plain = usefulness(net, base, fa.L2(0.1))
    torch.testing.assert_close(shifted.gamma, plain.gamma, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(shifted.std, plain.std, rtol=1e-6, atol=0)


def test_a_constant_feature_is_useless_and_has_no_gamma():
    base, net = data(), linear()
    with torch.no_grad():
        net[1].weight[2] = 0
    got = usefulness(net, base, fa.L2(0.2))
    assert got.constant.tolist() == [False, False, True, False, False]
    assert not got.rho[2].any()
    assert got.gamma[2].isnan().all()
    assert (got.kinds()[2] == Kind.USELESS).all()
    assert got.to_dict()["constant"] == [2]
    assert got.to_dict()["features"][2]["gamma"] is None


@pytest.mark.parametrize(("weight", "bias", "constant"), [(1e-7, 0.0, False), (1e-4, 1e4, True)])
def test_a_feature_is_constant_by_its_own_size(weight, bias, constant):
    """One that varies within the rounding of large values is; one of tiny values is not."""
    base, net = data(), linear()
    with torch.no_grad():
        net[1].weight[2] *= weight
        net[1].bias[2] = bias
    got = usefulness(net, base, fa.L2(0.2))
    assert got.constant.tolist() == [False, False, constant, False, False]


def test_a_net_that_is_linear_at_the_samples_alone_is_refused():
    net = linear()
    with torch.no_grad():
        net[1].weight.abs_()
        net[1].bias.abs_()
    net.insert(2, nn.ReLU())
    with pytest.raises(InputError, match="not linear"):
        usefulness(net, data(), fa.L2(0.1))


@pytest.mark.slow
def test_layers_by_name_by_module_and_by_function():
    base, net = data(12), deep()
    last = usefulness(net, base, fa.L2(0.1), PGD)
    named = usefulness(net, base, fa.L2(0.1), PGD, module="4")
    part = usefulness(net, base, fa.L2(0.1), PGD, module=net[4])
    function = usefulness(net, base, fa.L2(0.1), PGD, module=lambda x: net[:5](x))
    for other in (named, part, function):
        torch.testing.assert_close(other.gamma, last.gamma, rtol=1e-4, atol=1e-5)
    assert usefulness(net, base, fa.L2(0.1), module="1").rho.shape == (16, 3)


def test_the_model_is_left_as_it_is():
    base, net = data(12), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9), nn.Linear(9, 3)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    usefulness(net, base, fa.L2(0.1), PGD)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())


def test_kinds_and_shares():
    base, net = data(), linear()
    got = usefulness(net, base, fa.L2(0.1))
    kinds = got.kinds(0.3, 0.05)
    assert torch.equal(kinds == Kind.ROBUST, (got.rho >= 0.3) & (got.gamma >= 0.05))
    assert torch.equal(kinds == Kind.USELESS, got.rho < 0.3)
    shares = got.shares(0.3, 0.05)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[Kind.ROBUST] == pytest.approx((kinds == Kind.ROBUST).any(1).double().mean().item())
    lines = [line.split() for line in str(got).splitlines()]
    assert lines[0][:4] == ["class", "robust", "non-robust", "useless"]
    assert [line[0] for line in lines[-4:]] == ["0", "1", "2", "any"]
    assert f"{got.rho[:, 1].max():.3g}" in lines[-3]
    for thresholds in ({"rho": 0.0}, {"rho": -1.0}, {"gamma": -0.1}):
        with pytest.raises(InputError, match=f"{next(iter(thresholds))}: expected"):
            got.kinds(**thresholds)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"attack": None}, "not linear"),
        ({"attack": partial(fa.attacks.square)}, "takes loss"),
        ({"threat": 0.3}, "threat: expected"),
        ({"threat": fa.L2(torch.ones(60))}, "threat: expected"),
        ({"features": [0, 6]}, "from 0 to 5"),
        ({"features": [1, 1]}, "different numbers"),
        ({"limit": 2}, "every class"),
        ({"module": "nothing"}, "name of a submodule"),
        ({"model": lambda x: x}, "model: expected"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.replace(" ", "-"),
)
def test_what_cannot_be_measured(change, text):
    arguments = {"model": deep(), "dataset": data(), "threat": fa.L2(0.1), "attack": PGD, **change}
    with pytest.raises(InputError, match=text):
        usefulness(**arguments)


class Broken(nn.Module):
    def forward(self, x):
        return torch.where((x > 0.99).flatten(1).all(1)[:, None, None, None], torch.nan, x)


def test_features_that_are_not_finite_are_named():
    base = data()
    base.x[5] = 0.999
    with pytest.raises(InputError, match=r"samples \[5\]"):
        usefulness(nn.Sequential(Broken(), deep()), base, fa.L2(0.1), PGD)
