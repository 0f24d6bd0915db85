"""Threats: what they contain, make and refuse, in every dtype."""

import json
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from fastadv.threat import THREATS
from tests.refusals import refuses

KINDS = list(THREATS.values())
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
X = torch.rand(2, 3)
INF = float("inf")
RADII = [0.0, 0.05, 3.0, 40.0, INF]


def batch(dtype=torch.float32, rows=4, shape=(3, 5, 5)):
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(rows, *shape, generator=draw)
    x = torch.where(torch.rand(x.shape, generator=draw) < 0.4, x.round(), x)
    x_adv = x + 0.5 * torch.randn(x.shape, generator=draw)
    return x_adv.to(dtype), torch.randn(x.shape, generator=draw).to(dtype), x.to(dtype)


def exact(threat, z, x):
    """The radius as it stands, without the slack of `contains`."""
    limit = torch.as_tensor(threat.radius, dtype=torch.float64) * (1 + 1e-12)
    return bool((threat.distance(z, x) <= limit).all()) and torch.equal(z.clamp(*threat.box), z)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_whatever_it_makes_it_contains_exactly(kind, dtype):
    x_adv, grad, x = batch(dtype)
    for threat in map(kind, RADII):
        points = [
            threat.project(x_adv, x),
            threat.step(x_adv.clamp(0, 1), grad, x, 2.0),
            threat.step_(x_adv.clamp(0, 1), grad, x, 2.0),
        ]
        if threat.finite:
            points.append(threat.random_start(x, seed=3))
        for z in points:
            assert z.dtype == dtype
            assert exact(threat, z, x)
            assert bool(threat.contains(z, x).all())
        assert torch.equal(threat.project(points[0], x), points[0])
        assert threat.radius > 0 or all(torch.equal(z, x) for z in points)


@pytest.mark.parametrize("count", [3, 29, 57, 58])
@pytest.mark.parametrize("rows", [False, True])
def test_a_share_of_coordinates_is_as_many_of_them(count, rows):
    share = count * (1 - 2e-16)
    assert share < count
    radius = torch.tensor([share, share], dtype=torch.float64) if rows else share
    threat, x, most = fa.L0(radius), torch.zeros(2, 100), torch.arange(100).expand(2, 100)
    ones = torch.ones_like(x)
    for z in (threat.project(ones, x), threat.step(x, ones, x, 100.0), threat.random_start(x, seed=1)):
        assert ((z != x).sum(1) == count).all()
    for changed in (count, count + 1):
        assert (threat.contains((most < changed).float(), x) == (changed == count)).all()
    assert rows or threat.describe() == fa.L0(count).describe()


def test_no_rounding_adds_a_coordinate():
    x = torch.zeros(1, 2_000_001)
    assert fa.L0(2_000_001).contains(x + 1, x).all()
    assert not fa.L0(2_000_000).contains(x + 1, x).any()


@pytest.mark.parametrize("kind", KINDS)
def test_take_and_with_radius(kind):
    one, many = kind(0.5, (-1.0, 2.0)), kind(torch.arange(4.0), (-1.0, 2.0))
    assert one.take(torch.tensor([1])) is one
    assert many.take(torch.tensor([False, True, False, True])).radius.tolist() == [1.0, 3.0]
    assert many.take(torch.tensor([2, 0])).radius.tolist() == [2.0, 0.0]
    other = many.with_radius(0.25)
    assert (type(other), other.radius, other.box) == (kind, 0.25, (-1.0, 2.0))
    # a tensor that holds one number has no rows to take
    assert type(kind(torch.tensor(2)).radius) is float
    for threat in (one, kind(torch.tensor(2)), kind(INF)):
        threat.check_one_radius()


@pytest.mark.parametrize("kind", KINDS)
def test_contains(kind):
    """A slack of 1e-6 is for sums in another precision."""
    x = torch.full((6, 4), 0.5)
    z = x.clone()
    z[:5, 0] = torch.tensor([float("nan"), INF, 1.0 + 2.0**-23, 1.0, 0.0])  # one float past the box
    expected = [False, False, False, True, True, True]
    radius = kind(1.0).distance(z[3:4], x[3:4]).item()
    for enough in (INF, radius, radius * (1 - 1e-7)):
        assert kind(enough).contains(z, x).tolist() == expected
    assert kind(radius * (1 - 1e-5)).contains(z, x).tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("radius", "x", "x_adv", "grad", "steps"),
    [
        # gains 0.5, 0.2, 0.4 and 0 at the edge: what gains most moves
        (4, [0.5, 0.9, 0.2, 1.0], None, [1.0, 2.0, -2.0, 9.0], {2: [1.0, 0.9, 0.0, 1.0]}),
        (1, [0.5, 0.9, 0.2, 1.0], None, [1.0, 2.0, -2.0, 9.0], {4: [1.0, 0.9, 0.2, 1.0]}),
        # coordinates that gain most are held, not those that moved most: 0 moved the wrong way, 1 did not
        (
            2, [0.5] * 4, [0.0, 0.6, 0.5, 0.5], [1.0, 3.0, 2.0, 4.0],
            {1: [0.5, 0.6, 0.5, 1.0], 2: [0.5, 1.0, 0.5, 1.0]},
        ),
        (2, [0.5] * 4, [0.5, 1.0, 0.5, 1.0], [1.0, 3.0, 2.0, 4.0], {4: [0.5, 1.0, 0.5, 1.0]}),
        # the first of a full ball, at -1.9, goes: the second gains 1.68, the third 1, and 2.9 where it goes
        (2, [0.95, 0.5, 0.5], [0.0, 0.6, 0.5], [2.0, 4.2, 2.0], {1: [0.95, 0.6, 1.0]}),
        # the first one itself gains most, 2.0, where there is room for a third
        (3, [0.95, 0.5, 0.5], [0.0, 0.6, 0.5], [2.0, 4.2, 2.0], {1: [1.0, 0.6, 0.5]}),
        # harm is undone where x is the best value; 2 * 0.75 and 3 * 0.5 gain the same: the lower index
        (
            4, [1.0, 0.0, 0.5, 0.5], [0.25, 0.5, 0.5, 0.5], [2.0, -2.0, 3.0, 0.0],
            {3: [1.0, 0.0, 1.0, 0.5], 1: [1.0, 0.5, 0.5, 0.5]},
        ),
        # coordinates without a gradient stay
        (3, [0.5] * 4, [0.75, 0.5, 0.25, 0.5], [0.0, 0.0, 0.0, 1.0], {2: [0.75, 0.5, 0.25, 1.0]}),
        # the size is rounded down, and the lower index comes first
        (3, [0.5] * 4, None, [1.0] * 4, {2.9: [1.0, 1.0, 0.5, 0.5], 50: [1.0, 1.0, 1.0, 0.5]}),
    ],
)  # fmt: skip
def test_l0_steps_by_hand(radius, x, x_adv, grad, steps):
    x, grad = torch.tensor([x]), torch.tensor([grad])
    x_adv = x if x_adv is None else torch.tensor([x_adv])
    for size, expected in steps.items():
        assert torch.equal(fa.L0(radius).step(x_adv, grad, x, float(size)), torch.tensor([expected]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_gradient_that_is_not_finite_moves_its_coordinate_or_its_sample_not(kind, dtype):
    _, grad, x = batch(dtype)
    hit = (1, 0, 0, slice(2)) if kind is fa.Linf else (1,)
    for value in (float("nan"), INF, -INF):
        threat, broken, still = kind(2.0), grad.clone(), grad.clone()
        broken[1, 0, 0, :2], still[hit] = value, 0.0
        assert torch.equal(threat.step(x, broken, x, 1.0), threat.step(x, still, x, 1.0))
        for nothing in (torch.zeros_like(x), torch.full_like(x, value)):
            assert torch.equal(threat.step(x, nothing, x, 1.0), x)


@pytest.mark.parametrize("kind", KINDS)
def test_seed_draw_and_ids_decide_the_start(kind):
    x, threat, ids = torch.full((4, 3, 5, 5), 0.5), kind(20.0), torch.tensor([9, 3, 7, 1])
    z = threat.random_start(x, 1, ids, 5)
    assert torch.equal(threat.random_start(x[[2]], 1, ids[[2]], 5), z[[2]])
    assert torch.equal(threat.random_start(x, 1), threat.random_start(x, 1, torch.arange(4)))
    for other in ((2, ids, 5), (1, ids, 6), (1, ids - 1, 5)):
        fresh = threat.random_start(x, *other)
        assert bool(((z != fresh).flatten(1).sum(1) > 15).all()), "in every sample, not in some"
    assert not torch.equal(z[0], z[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [fa.L2, fa.L1])
@pytest.mark.parametrize("shape", [(1,), (3, 32, 32)])
def test_starts_of_uniform_length(kind, shape):
    """Distances are uniform in [0, radius], in any dimension; then they are clamped."""
    n = 400
    x, radius = torch.full((n, *shape), 0.5), torch.linspace(0.5, 2.0, n)
    wide = kind(radius, (-100.0, 100.0))
    share = wide.distance(wide.random_start(x, 3, length="uniform"), x) / radius
    assert share.max() <= 1
    even = (torch.arange(n) + 0.5) / n
    # the largest gap of an empirical distribution: 1.95 / sqrt(n) once in a thousand
    assert (share.sort()[0] - even).abs().max() < 1.95 / n**0.5
    away = wide.random_start(x, 3, length="uniform") - x
    assert (away * (wide.random_start(x, 3) - x) >= 0).all(), "the directions are those of the ball"
    clamped = kind(radius, (0.45, 0.55)).random_start(x, 3, length="uniform")
    torch.testing.assert_close(clamped, (x + away).clamp(0.45, 0.55))
    ids = torch.tensor([7, 1])
    pair = kind(1.0).random_start(x[:2], 3, ids, 2, length="uniform")
    assert torch.equal(kind(1.0).random_start(x[:1], 3, ids[1:], 2, length="uniform"), pair[1:])
    low = kind(0.3).random_start(x[:9].bfloat16(), 3, length="uniform")
    assert kind(0.3).contains(low, x[:9].bfloat16()).all()
    for other in (fa.Linf(0.1), fa.L0(3)):
        refuses("length: expected 'ball'", other.random_start, x, length="uniform")
    refuses("length: expected 'ball' or 'uniform'", kind(0.1).random_start, x, length="sphere")


def test_a_start_in_an_infinite_ball_is_refused_where_one_sample_has_one():
    x, threat = torch.rand(3, 4), fa.L2(torch.tensor([1.0, INF, 1.0]))
    some = threat.take(torch.tensor([0, 2]))
    assert (threat.finite, some.finite, some.take(torch.tensor([1])).finite) == (False, True, True)
    assert threat.take(torch.tensor([0, 2])).finite  # although that of all is known by now
    assert some.random_start(x[:2]).shape == (2, 4)
    for infinite, rows in ((threat, x), (threat.take(torch.tensor([1])), x[:1])):
        refuses("radius: expected a finite one", infinite.random_start, rows)
    assert threat.resized(torch.ones(3)).finite


@dataclass(frozen=True, eq=False)
class Masked(fa.L2):
    mask: torch.Tensor | None = None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (fa.L2(0.5), fa.L2(0.25)),
        (fa.L2(0.5), fa.L1(0.5)),
        (fa.L2(0.5), fa.L2(0.5, (0.0, 2.0))),
        (fa.L2(0.5), fa.L2(0.5, (-1.0, 1.0))),
        (fa.L2(0.5), Masked(0.5)),
        (fa.L2(0.5), fa.L2(INF)),
        (fa.L2(torch.tensor([0.5, 0.5])), fa.L2(torch.tensor([0.5, 0.25]))),
        (Masked(0.5, mask=torch.ones(3)), Masked(0.5, mask=torch.tensor([1.0, 0.0, 1.0]))),
    ],
)
def test_the_description_tells_threats_apart(one, other):
    texts = [json.dumps(threat.describe(), allow_nan=False, sort_keys=True) for threat in (one, other)]
    assert texts[0] != texts[1]
    assert texts[0] == json.dumps(one.with_radius(one.radius).describe(), sort_keys=True)


def test_a_table_that_lacks_a_norm_is_named(pytestconfig):
    plugins, text = pytestconfig.pluginmanager, r"'l1' is missing .*test_threat.py:\d+ reads, `_ = \{\}"
    running = plugins.get_plugin(f"{pytestconfig.rootpath}/tests/conftest.py").pytest_runtest_call()
    next(running)
    with pytest.raises(KeyError) as lack:
        _ = {}["l1"]
    with pytest.raises(pytest.fail.Exception, match=text):
        running.throw(lack.value)


def test_the_description_is_that_of_the_card():
    linf = {"name": "Linf", "norm": "linf", "radius": 0.1, "box": [-1.0, 1.0]}
    assert fa.Linf(0.1, (-1, 1)).describe() == linf
    radii = [threat.describe()["radius"] for threat in (fa.L0(3), fa.L2(INF), fa.L2(torch.tensor(0.5)))]
    assert radii == [3.0, "inf", 0.5]


@pytest.mark.parametrize(("kind", "across"), [(fa.Linf, 2.0), (fa.L2, 24**0.5), (fa.L1, 12.0), (fa.L0, 6.0)])
def test_a_ball_covers_a_box_as_wide_as_it_is_from_corner_to_corner(kind, across):
    x = torch.zeros(2, 2, 3)
    for radius, covers in ((across, True), (0.99 * across, False), (INF, False)):
        for radii in (radius, torch.tensor([0.0, radius], dtype=torch.float64)):
            assert kind(radii, (-1.0, 1.0)).covers(x) is covers


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_step_is_never_zero(kind):
    _, grad, x = batch()
    for radius in (0.0, torch.tensor([0.0, 0.1, 1.0, 2.0])):
        threat = kind(radius)
        size = threat.default_step_size(7, 2.5)
        threat.check_step_size(size)
        assert torch.equal(threat.step(x, grad, x, size)[0], x[0])
    with pytest.raises(InputError, match="step_size: expected a number where the radius is infinite"):
        kind(torch.tensor([1.0, INF])).default_step_size(7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_moves_nothing_is_refused(kind):
    _, grad, x = batch()
    rows, no_rows = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor(0.0)
    for size in (0, 0.0, -0.1, float("nan"), "0.1", None, rows, no_rows):
        for step in (kind(1.0).step, kind(1.0).step_):
            refuses("step_size: expected", step, x.clone(), grad, x, size)


@pytest.mark.parametrize("kind", [fa.L0, fa.L1])
@pytest.mark.parametrize(("box", "share"), [((0.0, 1.0), 0.01), ((-1.0, 1.0), 0.3), ((0.0, 255.0), 1.0)])
def test_steps_lead_from_any_start_to_the_best_point_of_a_linear_loss(kind, box, share):
    """On saturated images, where many coordinates have no room in the direction of their gradient."""
    draw, (lo, hi) = torch.Generator().manual_seed(0), box
    x = (lo + (hi - lo) * torch.rand(4, 300, generator=draw).mul(1.5).sub(0.25).clamp(0, 1)).clamp(lo, hi)
    grad = torch.randn(4, 300, generator=draw) * (torch.rand(4, 300, generator=draw) < 0.5)
    room = torch.where(grad > 0, hi - x, x - lo).double()
    gain, cost = grad.abs().double(), room if kind is fa.L1 else torch.ones_like(room)
    if kind is fa.L0:
        gain, room = gain * room, cost
    threat = kind(float(share * 300 * (hi - lo if kind is fa.L1 else 1)), box)
    order = gain.argsort(1, descending=True)
    gain, room = gain.gather(1, order), room.gather(1, order)
    best = (torch.minimum(room, (threat.radius - room.cumsum(1) + room).clamp_min(0)) * gain).sum(1)
    z = threat.random_start(x)
    for _ in range(20):
        z = threat.step(z, grad, x, threat.default_step_size(20, 2.5))
    reached = (grad.double() * (z.double() - x.double())).sum(1)
    assert bool((reached >= 0.98 * best).all()), reached / best
    assert bool(threat.contains(z, x).all())


@pytest.mark.parametrize("kind", KINDS)
def test_radii_and_boxes_that_are_none(kind):
    for radius in (-0.1, float("nan"), None, "0.1", True, [0.1, 0.2]):
        refuses("radius: expected a number >= 0", kind, radius)
    for radius in ([0.1, -1.0], [0.1, float("nan")], [[1.0, 1.0]], [True]):
        refuses("radius: expected", kind, torch.tensor(radius))
    for box in ((1.0, 0.0), (1.0, 1.0), None, 1.0, (0.0, 1.0, 2.0), "01", ("a", "b"), (0.0, float("nan"))):
        refuses("box: expected a pair of numbers", kind, 0.1, box)


@pytest.mark.parametrize("kind", KINDS)
def test_refusals(kind):
    one = kind(1.0)
    for call, text in (
        (lambda: one.with_radius(None), "radius: expected a number >= 0"),
        (lambda: one.project(X, torch.rand(2, 4)), "like the first argument"),
        (lambda: kind(torch.ones(3)).contains(X, X), "one value a sample"),
        (lambda: kind(INF).random_start(X), "radius: expected a finite one"),
        (lambda: one.random_start(X, seed=-1), "seed: expected an integer"),
        (lambda: one.random_start(X, draw=2**32), "draw: expected an integer"),
        (lambda: one.step(X, X.double(), X, 1.0), "grad: expected"),
        (lambda: one.step(X.double(), X, X.double(), 1.0), "grad: expected"),
        (lambda: one.step(X.half(), X.bfloat16(), X.half(), 1.0), "grad: expected"),
        (lambda: one.step(X, X.bfloat16()[:1], X, 1.0), "grad: expected"),
        (lambda: fa.L0(1, (float("-inf"), INF)).step(X, X, X, 1.0), "box: expected a finite one"),
        (lambda: fa.L1(3.0).step(X, X, X, torch.tensor([1.0, -1.0])), "a positive number, got -1"),
        (lambda: fa.L0(3).step(X, X, X, torch.tensor([1.0, 0.7])), "at least 1 coordinate, got 0.7"),
        (lambda: one.support(X[:1], X), "weight: expected"),
        (lambda: kind(torch.ones(1)).check_one_radius(), r"one radius for all samples, got \(1,\)"),
    ):
        refuses(text, call)


def supports(norm, weight, x, radius, box):
    """max <weight, z - x> over ball and box for one sample, by bisection or by going through subsets."""
    room = torch.where(weight > 0, box[1] - x, x - box[0])
    size = weight.abs()
    if norm == "linf":
        return (size * room.clamp_max(radius)).sum()
    if norm == "l0":
        sets = combinations(range(len(x)), int(min(radius, len(x))))
        return max((size * room)[list(chosen)].sum() for chosen in sets)
    # the Lagrangian: each coordinate goes as far as its price allows
    low, high = 0.0, float(size.max()) * 1e6 + 1.0
    for _ in range(200):
        price = (low + high) / 2
        away = room * (size > price) if norm == "l1" else (size / price).minimum(room)
        spent = away.sum() if norm == "l1" else away.norm()
        low, high = (price, high) if spent > radius else (low, price)
    away = {"l1": room * (size > high), "l2": (size / high).minimum(room)}[norm]
    # L1 spends what is left on the coordinate that costs the price itself
    return (size * away).sum() + (low * (radius - away.sum()) if norm == "l1" and low > 0 else 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("box", "seed"), [((0.0, 1.0), 0), ((-0.5, 2.0), 1)])
def test_the_support_is_what_a_linear_function_gains(kind, box, seed):
    draw = torch.Generator().manual_seed(seed)
    x = box[0] + (box[1] - box[0]) * torch.rand(6, 9, generator=draw, dtype=torch.float64)
    x = torch.where(torch.rand(6, 9, generator=draw) < 0.3, box[0], x)
    weight = torch.randn(6, 9, generator=draw, dtype=torch.float64)
    weight[torch.rand(6, 9, generator=draw) < 0.2] = 0.0
    radius = torch.tensor([0.01, 0.3, 1.2, 2.5, 7.0, INF], dtype=torch.float64)
    gained = kind(radius, box).support(weight.view(6, 3, 3), x.view(6, 3, 3))
    assert gained.dtype == torch.float64
    expected = [supports(kind.norm, *row, box) for row in zip(weight, x, radius.tolist(), strict=True)]
    torch.testing.assert_close(gained, torch.stack([torch.as_tensor(e) for e in expected]).double())


@pytest.mark.parametrize(("kind", "dual"), [(fa.Linf, 1), (fa.L2, 2), (fa.L1, float("inf"))])
def test_without_a_box_the_support_is_the_dual_norm(kind, dual):
    _, weight, x = batch(torch.float64)
    free = (-float("inf"), float("inf"))
    expected = 0.7 * torch.linalg.vector_norm(weight.flatten(1), dual, dim=1)
    torch.testing.assert_close(kind(0.7, free).support(weight, x), expected)
    assert bool(kind(float("inf"), free).support(weight, x).isinf().all())
    assert not bool(kind(float("inf"), free).support(0 * weight, x).any())
