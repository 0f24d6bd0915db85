"""Threats: what they contain, make and refuse, in every dtype."""

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError

KINDS = [fa.Linf, fa.L2, fa.L1, fa.L0]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
RADII = [0.0, 0.05, 0.5, 3.0, 40.0, float("inf")]


def batch(dtype=torch.float32, rows=4, shape=(3, 5, 5)):
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(rows, *shape, generator=draw)
    x = torch.where(torch.rand(x.shape, generator=draw) < 0.4, x.round(), x)
    x_adv = x + 0.5 * torch.randn(x.shape, generator=draw)
    return x_adv.to(dtype), torch.randn(x.shape, generator=draw).to(dtype), x.to(dtype)


def exact(threat, z, x):
    """The radius as it stands, without the slack of `contains`."""
    reach = torch.as_tensor(threat.radius, dtype=torch.float64) * (1 + 1e-12)
    return bool((threat.distance(z, x) <= reach).all()) and torch.equal(z.clamp(*threat.box), z)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("radius", RADII)
def test_whatever_it_makes_it_contains_exactly(kind, dtype, radius):
    x_adv, grad, x = batch(dtype)
    threat = kind(radius)
    made = [
        threat.project(x_adv, x),
        threat.step(x_adv.clamp(0, 1), grad, x, 2.0),
        threat.step_(x_adv.clamp(0, 1), grad, x, 2.0),
    ]
    if radius < float("inf"):
        made.append(threat.random_start(x, seed=3))
    for z in made:
        assert z.dtype == dtype
        assert exact(threat, z, x)
        assert bool(threat.contains(z, x).all())
    assert torch.equal(threat.project(made[0], x), made[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_radius_for_each_sample(kind):
    x_adv, grad, x = batch()
    threat = kind(torch.tensor([0.0, 0.7, 5.0, float("inf")]))
    z = threat.step(x_adv.clamp(0, 1), grad, x, 1.0)
    assert exact(threat, z, x)
    assert torch.equal(z[0], x[0])
    for row in range(4):
        one = torch.tensor([row])
        assert torch.equal(threat.take(one).step(x_adv[one].clamp(0, 1), grad[one], x[one], 1.0), z[one])
        assert torch.equal(threat.take(one).project(x_adv[one], x[one]), threat.project(x_adv, x)[one])


@pytest.mark.parametrize("kind", KINDS)
def test_take_and_with_radius(kind):
    one, many = kind(0.5, (-1.0, 2.0)), kind(torch.arange(4.0), (-1.0, 2.0))
    assert one.take(torch.tensor([1])) is one
    assert many.take(torch.tensor([False, True, False, True])).radius.tolist() == [1.0, 3.0]
    assert many.take(torch.tensor([2, 0])).radius.tolist() == [2.0, 0.0]
    other = many.with_radius(0.25)
    assert (type(other), other.radius, other.box) == (kind, 0.25, (-1.0, 2.0))


@pytest.mark.parametrize(
    ("kind", "expected"), [(fa.Linf, 0.5), (fa.L2, 0.3125**0.5), (fa.L1, 0.75), (fa.L0, 2.0)]
)
def test_distance(kind, expected):
    x = torch.zeros(1, 2, 2)
    z = torch.tensor([[[0.5, 0.0], [-0.25, 0.0]]])
    distance = kind(1.0).distance(z, x)
    assert distance.dtype == torch.float64
    assert distance.tolist() == [pytest.approx(expected, rel=1e-15)]


@pytest.mark.parametrize("kind", KINDS)
def test_contains(kind):
    x = torch.full((6, 4), 0.5)
    z = x.clone()
    z[0] = float("nan")
    z[1, 0] = float("inf")
    z[2, 0] = 1.0 + 2.0**-23  # one float past the box
    z[3, 0] = 1.0
    z[4, 0] = 0.0
    expected = [False, False, False, True, True, True]
    assert kind(float("inf")).contains(z, x).tolist() == expected
    radius = kind(1.0).distance(z[3:4], x[3:4]).item()
    assert kind(radius).contains(z, x).tolist() == expected
    assert kind(radius * (1 - 1e-5)).contains(z, x).tolist() == [False] * 5 + [True]
    assert kind(radius * (1 - 1e-7)).contains(z, x).tolist() == expected, (
        "a slack of 1e-6 for sums in another precision"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_radius_zero_is_the_identity(kind):
    x_adv, grad, x = batch()
    threat = kind(0.0)
    for z in (threat.project(x_adv, x), threat.step(x, grad, x, 1.0), threat.random_start(x)):
        assert torch.equal(z, x)


@pytest.mark.parametrize("kind", KINDS)
def test_broken_and_zero_gradients_move_nothing(kind):
    _, grad, x = batch()
    threat = kind(1.0)
    assert torch.equal(threat.step(x, torch.zeros_like(x), x, 1.0), x)
    assert torch.equal(threat.step(x, torch.full_like(x, float("nan")), x, 1.0), x)
    broken = grad.clone()
    broken[1, 0, 0, 0] = float("nan")
    z, clean = threat.step(x, broken, x, 1.0), threat.step(x, grad, x, 1.0)
    assert torch.equal(z[[0, 2, 3]], clean[[0, 2, 3]])
    assert bool(z.isfinite().all())


def test_l0_step_moves_what_gains_most():
    x = torch.tensor([[0.5, 0.9, 0.2, 1.0]])
    grad = torch.tensor([[1.0, 2.0, -2.0, 9.0]])  # gains 0.5, 0.2, 0.4 and 0 at the edge
    assert torch.equal(fa.L0(4).step(x, grad, x, 2.0), torch.tensor([[1.0, 0.9, 0.0, 1.0]]))
    assert torch.equal(fa.L0(1).step(x, grad, x, 4.0), torch.tensor([[1.0, 0.9, 0.2, 1.0]]))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_not_places_decide_the_start(kind):
    _, _, x = batch()
    threat, ids = kind(2.0), torch.tensor([9, 3, 7, 1])
    z = threat.random_start(x, seed=1, ids=ids, draw=5)
    assert torch.equal(threat.random_start(x[[2]], seed=1, ids=ids[[2]], draw=5), z[[2]])
    assert torch.equal(threat.random_start(x, seed=1), threat.random_start(x, seed=1, ids=torch.arange(4)))
    assert not torch.equal(threat.random_start(x, seed=2), threat.random_start(x, seed=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda k: k(-0.1), "radius: expected a number >= 0"),
        (lambda k: k(float("nan")), "radius: expected a number >= 0"),
        (lambda k: k(torch.tensor([0.1, -1.0])), "radius: expected"),
        (lambda k: k(torch.tensor([0.1, float("nan")])), "radius: expected"),
        (lambda k: k(torch.ones(2, 2)), "radius: expected"),
        (lambda k: k(0.1, (1.0, 0.0)), "box: expected"),
        (lambda k: k(0.1, (0.0, float("nan"))), "box: expected"),
        (lambda k: k(0.1).project(torch.rand(2, 3), torch.rand(2, 4)), "like the first argument"),
        (
            lambda k: k(0.1).step(torch.rand(2, 3), torch.rand(2, 3).double(), torch.rand(2, 3), 1.0),
            "grad: expected",
        ),
        (
            lambda k: k(0.1).step(torch.rand(2, 3), torch.rand(2, 3), torch.rand(2, 3), -0.1),
            "step_size: expected",
        ),
        (lambda k: k(torch.ones(3)).contains(torch.rand(2, 3), torch.rand(2, 3)), "one value a sample"),
        (lambda k: k(float("inf")).random_start(torch.rand(2, 3)), "radius: expected a finite one"),
    ],
)
def test_refusals(kind, call, text):
    with pytest.raises(InputError, match=text):
        call(kind)


def test_an_infinite_box_has_no_l0_step():
    x = torch.rand(2, 3)
    with pytest.raises(InputError, match="box: expected a finite one"):
        fa.L0(1, (float("-inf"), float("inf"))).step(x, x, x, 1.0)
