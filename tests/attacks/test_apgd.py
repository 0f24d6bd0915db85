"""Auto-PGD: its schedule by hand, its starts, its targets, and closed forms in the dimension of images."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks import ConfidentlyWrong, OutsideTopK, Status, apgd
from fastadv.attacks.core import full_batches
from fastadv.attacks.methods import auto_pgd
from fastadv.errors import InputError
from fastadv.threat import L0, L1, L2, THREATS, Linf

from .nets import Counted, images, labels, linear, mlp, threat

NORMS = ["linf", "l2", "l1"]
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def wide(
    size: int, classes: int, inputs: int = 3072, saturated: bool = False
) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model in float64, samples in the middle of the box or at its edges, and their labels."""
    model = linear(classes, inputs).double()
    draw = torch.Generator().manual_seed(5)
    x = 0.5 + 0.02 * torch.randn(size, inputs, dtype=torch.float64, generator=draw)
    if saturated:
        x = torch.rand(size, inputs, dtype=torch.float64, generator=draw).round()
    return model, x, labels(model, x)


def distance(model: nn.Module, x: Tensor, y: Tensor, norm: str, targets: Tensor | None) -> Tensor:
    """[B] the distance to the boundary with the target, or to the nearest boundary, without a box."""
    weight, logits = model[1].weight.detach(), model(x).detach()  # type: ignore[index]
    ahead = logits.gather(1, y[:, None]) - logits
    lengths = (weight[y][:, None] - weight).norm(p=DUAL[norm], dim=2)
    away = torch.where(torch.arange(logits.shape[1]) == y[:, None], torch.inf, ahead / lengths)
    return away.amin(1) if targets is None else away.gather(1, targets[:, None]).squeeze(1)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [784, 3072])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_nearest_of_two_boundaries_is_crossed(norm: str, loss: str, targeted: bool, inputs: int) -> None:
    model, x, y = wide(6, 2, inputs)
    targets = 1 - y if targeted else None
    away = distance(model, x, y, norm, targets)
    for scale, breaks in ((1.01, True), (0.99, False)):
        out = apgd(model, x, y, THREATS[norm](away * scale), steps=25, loss=loss, targets=targets)
        assert torch.equal(out.success, torch.full((6,), breaks))


def most(model: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """[B] the largest margin of a two-class linear model in an L1 ball and the unit box: a greedy fill."""
    weight = (model[1].weight[1] - model[1].weight[0]).detach()  # type: ignore[index]
    gradient = torch.where(y == 0, 1.0, -1.0).double()[:, None] * weight
    order = gradient.abs().argsort(1, descending=True)
    room = torch.where(gradient > 0, 1 - x, x).gather(1, order)
    taken = torch.minimum(room, (radius - room.cumsum(1) + room).clamp_min(0))
    logits = model(x).detach()
    clean = (logits.gather(1, 1 - y[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return clean + (gradient.abs().gather(1, order) * taken).sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("inputs", [784, 3072])
def test_the_l1_ball_inside_the_box_is_filled(inputs: int, saturated: bool) -> None:
    model, x, y = wide(5, 2, inputs, saturated)
    clean = most(model, x, y, 0.0)
    for radius in (3.0, 12.0):
        best = most(model, x, y, radius)
        out = apgd(model, x, y, L1(radius), steps=100, loss="margin", stop_early=False)
        assert L1(radius).contains(out.x_adv, x).all()
        assert (out.loss <= best + 1e-9).all()
        assert ((out.loss - clean) >= 0.97 * (best - clean)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_saturated_pixels_move(norm: str) -> None:
    model, x, y = wide(6, 2, 784, saturated=True)
    radius = {"linf": 0.2, "l2": 4.0, "l1": 30.0}[norm]
    out = apgd(model, x, y, THREATS[norm](radius), steps=20, stop_early=False, loss="margin")
    moved = (out.x_adv != x).flatten(1).any(1)
    assert moved.all()
    assert ((out.x_adv >= 0) & (out.x_adv <= 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize(
    ("loss", "scale"), [("ce-targeted", 1.6), ("dlr-targeted", 1.02), ("margin-targeted", 1.02)]
)
def test_targeted_losses_find_the_nearest_class(loss: str, scale: float, classes: int) -> None:
    """K - 1 rounds at most; the nearest boundary is among those of the nine best classes."""
    model, x, y = wide(6, classes, 784)
    logits = model(x).detach()
    nine = logits.scatter(1, y[:, None], -torch.inf).topk(min(9, classes - 1), 1).indices
    away = torch.stack([distance(model, x, y, "linf", column) for column in nine.unbind(1)]).amin(0)
    out = apgd(model, x, y, Linf(away * scale), steps=20, loss=loss)
    assert out.success.all()
    held = apgd(model, x, y, Linf(distance(model, x, y, "linf", None) * 0.98), steps=5, loss=loss)
    assert not held.success.any()
    assert held.backwards == 6 * 5 * min(9, classes - 1)


def test_each_round_leads_to_its_own_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one class, only the one with the second largest logit is tried; with two, the next as well."""
    monkeypatch.setattr(full_batches, "FULL", {"cpu": 1})
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                x.register_hook(lambda gradient: seen.append(gradient.clone()))
            return 4 * x + torch.tensor([3.0, 1.0, 2.0, 0.0])

    x = torch.full((1, 4), 0.5)
    for classes in (1, 2):
        seen.clear()
        apgd(Watched(), x, torch.tensor([0]), Linf(0.01), steps=2, loss="margin-targeted", classes=classes)
        rises = [int(gradient[0].argmax()) for gradient in seen]
        assert rises == [2, 2, 1, 1][: 2 * classes]


def test_the_first_steps_by_hand() -> None:
    """Without momentum in the first step, with a quarter of the step before in the second."""
    points: list[Tensor] = []

    class Flat(nn.Module):
        """The gradient turns around in the first coordinate at each evaluation."""

        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                points.append(x.detach().clone())
            sign = torch.tensor([1.0, 1.0]) * torch.tensor([(-1.0) ** len(points), 1.0])
            rise = (x * sign).sum(1)
            return torch.stack([0 * rise + 9, rise], 1)

    x = torch.full((1, 2), 0.5)
    apgd(Flat(), x, torch.tensor([0]), Linf(0.1), steps=3, loss="margin")
    start, first, second = (point - 0.5 for point in points)
    # a step of two radii ends at the edge
    torch.testing.assert_close(first, torch.tensor([[-0.1, 0.1]]))
    stepped = torch.tensor([[0.1, 0.1]])
    by_hand = first + 0.75 * (stepped - first) + 0.25 * (first - start)
    torch.testing.assert_close(second, by_hand.clamp(-0.1, 0.1))


def turned(number: int) -> Tensor:
    """Gradients that turn, so that points keep moving."""
    return torch.tensor([[math.cos(number), math.sin(number), 1.0]])


def scripted(values: list[float]) -> tuple[nn.Module, list[Tensor]]:
    """A model with margin values[i] and gradient turned(i) at gradient number i; the points it saw."""
    points: list[Tensor] = []

    class Scripted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            value, along = -9.0, (x * turned(len(points))).sum(1)
            if x.requires_grad:
                value = values[min(len(points), len(values) - 1)]
                points.append(x.detach().clone())
            rise = along - along.detach() + value
            return torch.stack([0 * rise, rise], 1)

    return Scripted(), points


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rho", "rising", "halves"),
    [
        (0.75, 1, True),
        (0.75, 16, True),
        (0.75, 17, False),
        (0.5, 11, True),
        (0.5, 12, False),
        (1.0, 22, True),
    ],
)
def test_steps_are_halved_where_the_loss_rises_too_rarely(rho: float, rising: int, halves: bool) -> None:
    """The first checkpoint of 100 steps comes after 22: more than rho * 22 of them must raise the loss."""
    values = [-5.0]
    for step in range(22):
        values.append(values[-1] + (0.01 if step < rising else -0.01))
    model, points = scripted([*values, -8.0])
    x = torch.tensor([[0.5, 0.6, 0.7]])
    apgd(model, x, torch.tensor([0]), L2(0.1), steps=100, loss="margin", rho=rho)
    ball = L2(0.1)
    # the sample goes back to its strongest point and halves the step, or goes on with one of two radii
    place, size = (rising, 0.1) if halves else (22, 0.2)
    origin, before = points[place], points[21]
    stepped = ball.step(origin, turned(place), x, size)
    expected = ball.project(origin + 0.75 * (stepped - origin) + 0.25 * (origin - before), x)
    torch.testing.assert_close(points[23], expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_step_that_raised_nothing_new_is_halved() -> None:
    """At the second checkpoint, where the loss rises all the time and stays below the highest of before."""
    # the second interval is of 19 steps
    values = [-5.0 + 0.01 * i for i in range(23)] + [-8.0 + 0.01 * i for i in range(19)] + [-9.0]
    model, points = scripted(values)
    x = torch.tensor([[0.5, 0.6, 0.7]])
    apgd(model, x, torch.tensor([0]), L2(0.1), steps=100, loss="margin")
    ball, origin, before = L2(0.1), points[22], points[40]
    stepped = ball.step(origin, turned(22), x, 0.1)
    expected = ball.project(origin + 0.75 * (stepped - origin) + 0.25 * (origin - before), x)
    torch.testing.assert_close(points[42], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_starts_lie_at_the_surface_and_depend_on_seed_id_and_restart(norm: str) -> None:
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                seen.append(x.detach().clone())
            return torch.stack([90 + 0 * x.sum(1), x.sum(1)], 1)

    x, y, radius = torch.full((4, 50), 0.5), torch.zeros(4, dtype=torch.long), 0.3

    def start(restart: int = 0, **options: Any) -> Tensor:
        seen.clear()
        inside = THREATS[norm](radius)
        apgd(Watched(), x, y, inside, steps=1, loss="margin", restarts=restart + 1, **options)
        assert inside.contains(seen[restart], x).all()
        return seen[restart]

    base = start()
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    torch.testing.assert_close((base - x).norm(p=order, dim=1), torch.full((4,), radius), rtol=1e-5, atol=0)
    assert torch.equal(base, start())
    others = [start(1), start(seed=1), start(ids=torch.arange(4) + 4), base.roll(1, 0)]
    for other in others:
        assert (other != base).any(1).all()
    mask = torch.arange(50) < 20
    kept = start(mask=mask)
    assert torch.equal(kept[:, ~mask], x[:, ~mask])
    torch.testing.assert_close((kept - x).norm(p=order, dim=1), torch.full((4,), radius), rtol=1e-5, atol=0)


def test_an_l1_start_is_the_projection_of_noise_that_no_box_has_cut() -> None:
    """The largest draws alone keep a part of the radius; clipped to the box first, most would be the same."""
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            if z.requires_grad:
                seen.append(z.detach().clone())
            return torch.stack([900 + 0 * z.sum(1), z.sum(1)], 1)

    x = (3 * images(4, (784,), dtype=torch.float32) - 1).clamp(0, 1)
    noise = rng.normal(784, rng.derive(0, "apgd", 0), torch.arange(4))
    for factor in (1.0, 3.0):
        seen.clear()
        apgd(Watched(), x, torch.zeros(4).long(), L1(10.0), steps=10, larger_radii=factor > 1)
        torch.testing.assert_close(seen[0], L1(10.0 * factor).project(x + noise, x), rtol=0, atol=1e-6)
        away = (seen[0] - x).abs()
        assert ((away > 1e-6).sum(1) < 50 * factor).all()
        assert (away.amax(1) > 0.5).all()


def test_l1_moves_as_many_coordinates_as_the_share_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of 784 is 156.8: 157 of them. Two thirds of three are two, not three for a bit of rounding."""
    moved: list[int] = []

    def watched(search: Any, points: Tensor, factor: float) -> Tensor:
        moved.append(int((points != search.rows.points).sum()))
        return project(search, points, factor)

    project = auto_pgd.project
    monkeypatch.setattr(auto_pgd, "project", watched)
    for size, wanted in ((784, 157), (785, 157), (786, 158)):
        moved.clear()
        model, x = nn.Linear(size, 2), torch.full((1, size), 0.5)
        apgd(model, x, model(x).argmax(1), L1(1e-3), steps=1, larger_radii=False)
        assert moved == [wanted]
    for count in range(1, 60):  # coordinates that had moved; two thirds of them are to
        density = torch.tensor([count / 784 / 1.5])
        assert int((density * 784 * (1 - auto_pgd.ROUNDING)).ceil()) == math.ceil(count / 1.5 - 1e-9)


@pytest.mark.slow
def test_l1_begins_in_larger_balls() -> None:
    """Thirty, thirty and forty of a hundred steps at three, two and one radii, and only the last count."""
    seen: list[tuple[bool, float]] = []
    x = torch.full((1, 200), 0.5)

    class Watched(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            seen.append((z.requires_grad, float((z.detach() - x).abs().sum())))
            # wrong outside the ball only
            rise = (z * torch.linspace(1, 2, 200)).sum(1)
            return torch.stack([rise.detach() * 0 + 151.2, rise], 1)

    out = apgd(Watched(), x, torch.tensor([0]), L1(0.5), steps=100, loss="margin")
    lengths = [length for _, length in seen[1:-1]]
    assert len(lengths) == 31 + 31 + 41
    assert [gradient for gradient, _ in seen[1:-1]] == [
        *[True] * 30,
        False,
        *[True] * 30,
        False,
        *[True] * 40,
        False,
    ]
    for part, radius in ((lengths[:31], 1.5), (lengths[31:62], 1.0), (lengths[62:], 0.5)):
        assert max(part) == pytest.approx(radius, rel=1e-4)
    assert out.status[0] == Status.HELD
    assert L1(0.5).contains(out.x_adv, x).all()
    seen.clear()
    apgd(Watched(), x, torch.tensor([0]), L1(0.5), steps=100, loss="margin", larger_radii=False)
    assert len(seen) == 103
    assert max(length for _, length in seen) <= 0.5 * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_radius_of_each_sample_and_zero(norm: str) -> None:
    model, x = mlp(), images(8)
    y, inside = labels(model, x), threat(norm)
    radius = torch.linspace(0, 2, 8, dtype=torch.float64) * float(inside.radius)
    out = apgd(model, x, y, THREATS[norm](radius), steps=10, stop_early=False)
    assert torch.equal(out.x_adv[0], x[0])
    assert THREATS[norm](radius).contains(out.x_adv, x).all()
    for i in (3, 7):
        one = apgd(
            model, x[i : i + 1], y[i : i + 1], THREATS[norm](float(radius[i])), steps=10, stop_early=False,
            ids=torch.tensor([i]),
        )  # fmt: skip
        torch.testing.assert_close(out.x_adv[i : i + 1], one.x_adv)


@pytest.mark.parametrize("loss", ["margin", "margin-targeted"])
@pytest.mark.parametrize("criterion", [ConfidentlyWrong(0.6), OutsideTopK(2)])
def test_the_margin_is_that_of_the_criterion(criterion: Any, loss: str) -> None:
    if loss == "margin-targeted" and isinstance(criterion, OutsideTopK):
        pytest.skip("it names no class")
    model, x = mlp(5), images(30)
    y = labels(model, x)
    inside = threat("linf", 4)
    plain = apgd(model, x, y, inside, steps=10, loss=loss)
    out = apgd(model, x, y, inside, steps=10, loss=loss, criterion=criterion)
    logits = model(out.x_adv).detach()
    assert torch.equal(out.success, criterion.met(logits, y, None))
    assert not criterion.met(model(plain.x_adv).detach(), y, None).all()
    assert out.success.sum() > 5


@pytest.mark.slow
def test_targets_cross_losses_and_radii() -> None:
    model, x = mlp(6), images(40)
    y = labels(model, x)
    targets = (y + 1 + torch.arange(40) % 5) % 6
    for norm in NORMS:
        for loss in ("ce", "dlr", "margin"):
            out = apgd(model, x, y, threat(norm, 6), steps=20, loss=loss, targets=targets)
            assert torch.equal(out.success, labels(model, out.x_adv) == targets)
            assert out.success.sum() > 10


def test_no_gradient_is_taken_at_the_last_points() -> None:
    model, x = mlp(3), images(5)
    y = labels(model, x)
    counts = {"forward": 0, "backward": 0}

    def add(name: str, n: int) -> None:
        counts[name] += n

    counted = Counted(model, lambda n: add("forward", n), lambda n: add("backward", n))
    out = apgd(counted, x, y, Linf(1e-4), steps=7, restarts=2)
    assert counts == {"forward": 5 * (1 + 2 * 8 + 1), "backward": 5 * 14}
    assert (out.forwards, out.backwards) == (counts["forward"], counts["backward"])


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("steps: expected an integer >= 0", {"steps": -1}),
        ("rho: expected a finite number >= 0 and <= 1", {"rho": 1.5}),
        ("classes: expected None unless", {"classes": 3}),
        ("classes: expected an integer >= 1", {"classes": 0, "loss": "dlr-targeted"}),
        ("loss: expected 'dlr' where", {"loss": "dlr-targeted", "targets": torch.tensor([1, 0])}),
        ("loss: expected one of", {"loss": "hinge-targeted"}),
        ("larger_radii: expected None or False for linf", {"larger_radii": True}),
        ("threat: expected one of Linf, L2, L1, which apgd serves, got L0", {"threat": L0(2)}),
        ("radius: expected a finite one", {"threat": Linf(torch.inf)}),
    ],
)  # fmt: skip
def test_wrong_arguments(message: str, options: dict[str, Any]) -> None:
    x = torch.full((2, 16), 0.5)
    arguments: dict[str, Any] = {"threat": Linf(0.1), **options}
    with pytest.raises(InputError, match=message):
        apgd(linear(), x, torch.tensor([0, 1]), **arguments)
