"""Carlini and Wagner's attacks against an oracle of theirs by autograd, closed forms, and their options."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import ConfidentlyWrong, Status, WrongBy, cw
from fastadv.attacks.cw import _fit, _tighten
from fastadv.attacks.methods.constant_search import bisect
from fastadv.errors import InputError
from fastadv.threat import L1, L2, Linf, Threat

from .contract.cases import boundary_distance, two_classes
from .nets import images, labels, mlp
from .scripted import scripted
from .watched import watched

THREATS = {"l2": L2, "linf": Linf}


def by_autograd(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int, constant: float, step_size: float
) -> list[Tensor]:
    """The points of one search, by torch.optim.Adam on the objective as the paper writes it."""
    low, high = threat.box
    center, half = (low + high) / 2, 1.1 * (high - low) / 2
    most = math.atanh(1 / 1.1)
    w = ((x - center) / half).atanh().requires_grad_()
    adam = torch.optim.Adam([w], lr=step_size, eps=0)
    nearest, points = torch.full((len(x),), torch.inf, dtype=x.dtype), []
    for step in range(steps):
        adam.param_groups[0]["lr"] = step_size * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        z = center + half * w.tanh()
        points.append(z.detach().clone())
        logits = model(z)
        own = logits.gather(1, y[:, None]).squeeze(1)
        margin = logits.scatter(1, y[:, None], -torch.inf).amax(1) - own
        away = (z - x).flatten(1)
        reached = torch.linalg.vector_norm(away.detach(), threat.order, dim=1)
        nearest = torch.where((margin > 0) & (reached < nearest), reached, nearest)
        if threat.norm == "l2":
            distance = away.square().sum(1)
        else:
            distance = (away.abs() - 0.95 * nearest[:, None]).clamp_min(0).sum(1)
        (distance + constant * (-margin).clamp_min(0)).sum().backward()
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            w.clamp_(-most, most)
    return points


@pytest.mark.slow
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 3.0)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_descent_is_that_of_the_paper(norm: str, box: tuple[float, float]) -> None:
    model, x = mlp(), images(6) * (box[1] - box[0]) + box[0]
    x[0, 0, 0, :2] = torch.tensor(box)
    y = labels(model, x)
    (function, seen), threat = watched(model), THREATS[norm](math.inf, box)
    out = cw(function, x, y, threat, steps=25, searches=1, constant=2.0, step_size=0.05)
    expected = by_autograd(model, x, y, threat, 25, 2.0, 0.05)
    assert out.success.any()
    assert len(seen) == 25
    for step in (0, 1, 2, 5, 12, 24):
        torch.testing.assert_close(seen[step], expected[step], rtol=1e-6, atol=1e-7)


def test_the_constant_is_bisected() -> None:
    inf = math.inf
    rows = SimpleNamespace(
        hit=torch.tensor([True, False, True, False, True, True]),
        constant=torch.tensor([8.0, 8.0, 8.0, 8.0, 8.0, 8.0]),
        low=torch.tensor([0.0, 0.0, 2.0, 2.0, 0.0, 0.0]),
        high=torch.tensor([inf, inf, inf, 32.0, inf, inf]),
        before=torch.tensor([inf, inf, 2.0, 2.0, 2.0, 2.0]),
    )
    best = torch.tensor([1.0, inf, 1.9, 2.0, 2.0, 1.999])
    done = bisect(SimpleNamespace(rows=rows, best=SimpleNamespace(distance=best)))
    assert rows.constant.tolist() == [2.0, 80.0, 4.0, 16.0, 2.0, 2.0]
    assert done.tolist() == [False, False, False, False, True, True]


def test_tau_follows_the_distance() -> None:
    inf = math.inf
    rows = SimpleNamespace(
        constant=torch.tensor([1.0, 1.0, 1.0, 1.0]),
        shrink=torch.tensor([0.9, 0.9, 0.9, 0.995]),
        before=torch.tensor([2.0, inf, 2.0, 2.0]),
    )
    best = torch.tensor([1.8, inf, 1.95, 2.0])
    done = _tighten(SimpleNamespace(rows=rows, best=SimpleNamespace(distance=best)))
    assert rows.constant.tolist() == [1.0, 2.0, 2.0, 2.0]
    torch.testing.assert_close(rows.shrink, torch.tensor([0.9, 0.95, 0.95, 0.9975]))
    assert done.tolist() == [False, False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_distance_of_a_linear_model(norm: str, targeted: bool, classes: int) -> None:
    """D = 3,072: the boundary of the target, or the nearest, is met to a few percent."""
    check_linear(norm, targeted, classes, 3072, 60)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_thousand_classes(norm: str) -> None:
    check_linear(norm, False, 1000, 192, 60)


def check_linear(norm: str, targeted: bool, classes: int, inputs: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    x = 0.4 + 0.2 * torch.rand(4, 3, inputs // 3, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, inputs, generator=generator) / 50)
        logits = model(x)
    y = logits.argmax(1)
    targets = logits.topk(2).indices[:, 1] if targeted else None
    weight = model[1].weight.detach()
    gap = logits.gather(1, y[:, None]) - logits
    dual = (weight[y][:, None] - weight).norm(p=2 if norm == "l2" else 1, dim=2)
    each = (gap / dual).masked_fill(torch.arange(classes) == y[:, None], math.inf)
    distance = each.gather(1, targets[:, None]).squeeze(1) if targeted else each.amin(1)
    out = cw(model, x, y, THREATS[norm](math.inf), steps=steps, targets=targets)
    assert (out.distance >= distance * (1 - 1e-3)).all()
    assert (out.distance <= distance * 1.05).all()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_scale_of_the_logits_does_not_matter(norm: str, scale: float) -> None:
    model, x = mlp(), images(6)
    y = labels(model, x)
    plain = cw(model, x, y, THREATS[norm](math.inf), steps=30, searches=3)
    scaled = cw(lambda z: scale * model(z), x, y, THREATS[norm](math.inf), steps=30, searches=3)
    assert plain.success.all()
    torch.testing.assert_close(scaled.x_adv, plain.x_adv, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_units_of_the_box_do_not_matter(norm: str) -> None:
    model, x = mlp(), images(6)
    y = labels(model, x)
    plain = cw(model, x, y, THREATS[norm](math.inf), steps=30, searches=3)
    wide = cw(
        lambda z: model((z + 100) / 255), 255 * x - 100, y, THREATS[norm](math.inf, (-100.0, 155.0)),
        steps=30, searches=3,
    )  # fmt: skip
    torch.testing.assert_close((wide.x_adv + 100) / 255, plain.x_adv, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("edge", [(-math.inf, math.inf), (0.0, math.inf)])
def test_a_box_without_edges(norm: str, edge: tuple[float, float]) -> None:
    x = 0.5 + images(4)
    model, weight = two_classes(x, 1.0)
    need = 1.0 + (x.flatten(1) @ weight).max() - x.flatten(1) @ weight
    distance = boundary_distance(x, weight, need, norm, edge)
    threat = THREATS[norm](math.inf, edge)
    out = cw(model, x, torch.zeros(4, dtype=torch.long), threat, steps=100)
    assert (out.distance <= 1.05 * distance).all()
    assert (out.x_adv >= edge[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_lead_moves_the_boundary(norm: str) -> None:
    x = images(4, (1, 28, 28))
    model, weight = two_classes(x, 1.0)
    need = 1.0 + (x.flatten(1) @ weight).max() - x.flatten(1) @ weight
    y = torch.zeros(4, dtype=torch.long)
    for lead in (0.0, 2.0, 7.0):
        distance = boundary_distance(x, weight, need + lead, norm)
        criterion = WrongBy(lead)
        out = cw(model, x, y, THREATS[norm](math.inf), steps=100, criterion=criterion)
        assert (out.distance >= distance * (1 - 1e-4)).all()
        assert (out.distance <= 1.05 * distance).all()
        logits = model(out.x_adv)
        assert (logits[:, 1] - logits[:, 0] >= lead - 1e-9).all()
    sure = cw(model, x, y, THREATS[norm](math.inf), steps=100, criterion=ConfidentlyWrong(0.9))
    distance = boundary_distance(x, weight, need + math.log(9), norm)
    assert (sure.distance <= 1.15 * distance).all()
    assert (sure.distance >= distance * (1 - 1e-4)).all()


def test_the_lead_is_checked() -> None:
    for lead in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="lead"):
            WrongBy(lead)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_pixels_at_the_edges_move(norm: str) -> None:
    """Binary images: every pixel that can help moves."""
    x = images(4, (1, 28, 28)).round()
    model, weight = two_classes(x, 1.0)
    out = cw(model, x, torch.zeros(4, dtype=torch.long), THREATS[norm](math.inf), steps=60)
    assert out.success.all()
    free = torch.where(weight > 0, x.flatten(1) < 1, x.flatten(1) > 0)
    steep = free & (weight.abs() > 0.5)
    assert ((out.x_adv != x).flatten(1) | ~steep).float().mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_half_precision_of_the_samples(norm: str) -> None:
    model, x = mlp(dtype=torch.float32), images(6, dtype=torch.float32)
    y = labels(model, x)
    fine = cw(model, x, y, THREATS[norm](math.inf), steps=30, searches=3)
    coarse = cw(model, x.bfloat16(), y, THREATS[norm](math.inf), steps=30, searches=3)
    broken = coarse.status == Status.BROKEN
    assert coarse.x_adv.dtype == torch.bfloat16
    assert broken.sum() >= 4
    assert (coarse.distance[broken] <= fine.distance[broken] * 1.1 + 0.02).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_last_point_is_judged(norm: str) -> None:
    x = images(4, (1, 28, 28))
    model, _ = two_classes(x, 0.05)
    y = torch.zeros(4, dtype=torch.long)
    out = cw(model, x, y, THREATS[norm](math.inf), steps=1, searches=1, step_size=0.5)
    assert out.success.all()
    assert out.backwards == 4


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_mask_holds(norm: str) -> None:
    x = images(4)
    model, weight = two_classes(x, 0.3)
    mask = torch.rand(16, generator=torch.Generator().manual_seed(3)) < 0.7
    need = 0.3 + (x.flatten(1) @ weight).max() - x.flatten(1) @ weight
    distance = boundary_distance(x[..., :], weight * mask, need, norm)
    out = cw(
        model, x, torch.zeros(4, dtype=torch.long), THREATS[norm](math.inf), steps=100,
        mask=mask.view(1, 4, 4),
    )  # fmt: skip
    assert torch.equal(out.x_adv.flatten(1)[:, ~mask], x.flatten(1)[:, ~mask])
    possible = distance < 10
    assert possible.any()
    assert (out.distance[possible] <= 1.05 * distance[possible]).all()


@pytest.mark.slow
def test_samples_leave_when_nothing_is_gained() -> None:
    x = images(4, (1, 28, 28))
    model, _ = two_classes(x, 1.0)
    out = cw(model, x, torch.zeros(4, dtype=torch.long), L2(math.inf), steps=60, searches=50)
    assert out.backwards < 4 * 60 * 8


@pytest.mark.slow
def test_a_radius_bounds_the_distance_of_interest() -> None:
    model, x = mlp(), images(12)
    y = labels(model, x)
    free = cw(model, x, y, L2(math.inf), steps=30, searches=3)
    half = float(free.distance.median())
    near = cw(model, x, y, L2(half), steps=30, searches=3)
    assert torch.equal(near.success, free.distance <= half * (1 + 1e-6))
    assert (near.x_adv[~near.success] == x[~near.success]).all()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"searches": 0}, "searches"),
        ({"constant": 0.0}, "constant"),
        ({"constant": math.inf}, "constant"),
        ({"step_size": -1.0}, "step_size"),
        ({"step_size": 0}, "step_size"),
    ],
)
def test_wrong_arguments(given: dict[str, float], named: str) -> None:
    x = images(2)
    with pytest.raises(InputError, match=named):
        cw(mlp(), x, labels(mlp(), x), L2(math.inf), **{"steps": 3, **given})


def test_other_norms_are_refused() -> None:
    x = images(2)
    with pytest.raises(InputError, match="L2, Linf, which cw serves, got L1"):
        cw(mlp(), x, labels(mlp(), x), L1(math.inf), steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_where_the_second_search_starts(norm: str) -> None:
    """L2 starts at x again, Linf at the nearest success."""
    model, x = mlp(), images(6)
    y = labels(model, x)
    function, seen = watched(model)
    threat = THREATS[norm](math.inf)
    first = cw(model, x, y, threat, steps=25, searches=1)
    cw(function, x, y, threat, steps=25, searches=2)
    assert first.success.any()
    torch.testing.assert_close(seen[25], x if norm == "l2" else first.x_adv)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("given", [None, 0.01])
def test_each_search_begins_with_a_fresh_adam(norm: str, given: float | None) -> None:
    """Its first step has one length in all coordinates, three times that before where nothing was found."""
    size, x = 9, torch.linspace(0.4, 0.6, 9, dtype=torch.float64)
    gradients = [torch.randn(size, generator=torch.Generator().manual_seed(n)).double() for n in range(20)]
    model, points = scripted([-0.01], lambda number: gradients[number])
    cw(model, x[None], torch.tensor([0]), THREATS[norm](math.inf), steps=4, searches=3, step_size=given)
    w = [((point - 0.5) / 0.55).atanh() for point in points]
    expected = 0.01
    if given is None:
        length = (
            0.01 / float(gradients[0].norm()) / size**0.5
            if norm == "l2"
            else 0.01 / float(gradients[0].abs().sum())
        )
        expected = (1.5 if norm == "l2" else 0.1) * length / 0.5
    for search in range(3):
        first = 4 * search
        torch.testing.assert_close(points[first], x, rtol=0, atol=1e-12)
        most = expected if given else min(expected * 3**search, 0.1)
        move = w[first + 1] - w[first]
        torch.testing.assert_close(move, most * gradients[first].sign(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("loss", [-2.0, -0.02])  # the first leads to the largest step
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_first_constant_ignores_pixels_that_cannot_move(norm: str, loss: float) -> None:
    x = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    gradient = torch.tensor([[90.0, -70.0, 3.0, -4.0]])
    rows = SimpleNamespace()
    search = SimpleNamespace(
        rows=rows, x=x, threat=THREATS[norm](math.inf), best=SimpleNamespace(rank=torch.zeros(1))
    )
    _fit(search, SimpleNamespace(loss=torch.tensor([loss]), gradient=gradient), None, None)
    constants = {"l2": 4 * 2 * -loss / 25, "linf": 0.3 / 4}
    steps = {"l2": 1.5 * (-loss / 5 / 2) * 2, "linf": 0.1 * (-loss / 7) * 2}
    constant, step = constants[norm], steps[norm]
    torch.testing.assert_close(rows.constant, torch.tensor([constant]))
    torch.testing.assert_close(rows.step_size, torch.tensor([min(step, 0.1)]))
